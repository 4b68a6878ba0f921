/** The live page: what you say goes to the service, and the face says it. */

import { $, api, say, sentence } from "./api.js";
import { open as openRtc } from "./rtc.js";
import { open as openSocket } from "./socket.js";

const RATE = 48000; // samples per second, both ways
const state = { link: null, context: null, microphone: null, file: null };

const tell = (text, error = false) => say("message", text ? sentence(text) : "", error);

async function offers() {
  try {
    const { avatars, tts } = await api("live");
    $("avatar").replaceChildren(...avatars.map((name) => new Option(name.replace(/\.[^.]*$/, ""), name)));
    $("say").hidden = !tts;
    $("start").disabled = !avatars.length;
    if (!avatars.length) tell("There is nobody to speak: start the service with --avatars FOLDER, a folder with videos or photos of people.");
  } catch (error) { tell(error.message, true); }
}

async function start() {
  $("start").disabled = true;
  tell("The person is being prepared …");
  state.context = new AudioContext({ sampleRate: RATE });
  const page = { context: state.context, video: $("video"), canvas: $("picture"), told, ended };
  try {
    state.link = await connect($("avatar").value, page);
  } catch (error) { return ended(error.message, true); }
  $("stage").hidden = $("stop").hidden = false;
  tell("");
}

/** Over WebRTC, or over a WebSocket where that does not get through. */
async function connect(avatar, page) {
  const shown = (overRtc) => { $("video").hidden = !overRtc; $("picture").hidden = overRtc; };
  if (window.RTCPeerConnection && location.hash !== "#socket") {
    try {
      const link = await openRtc(avatar, page);
      shown(true);
      return link;
    } catch (error) {
      if (error.status && error.status !== 501) throw error; // the service refuses: it would again
    }
  }
  const link = await openSocket(avatar, page);
  shown(false);
  return link;
}

function told(message) {
  if (message.type === "problem") tell(message.detail, true);
}

async function toggleMicrophone() {
  if (state.microphone) return stopMicrophone();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
  } catch {
    return tell("The microphone cannot be used: allow it in the browser.", true);
  }
  const node = state.context.createMediaStreamSource(stream);
  node.connect(state.link.input);
  state.microphone = { node, stream };
  $("microphone").setAttribute("aria-pressed", "true");
  $("microphone").textContent = "Stop speaking";
}

function stopMicrophone() {
  if (!state.microphone) return;
  state.microphone.node.disconnect();
  state.microphone.stream.getTracks().forEach((track) => track.stop());
  state.microphone = null;
  state.link?.send({ type: "end" });
  $("microphone").setAttribute("aria-pressed", "false");
  $("microphone").textContent = "Speak";
}

/** Speaks a sound file, at its own pace. */
async function speakFile(file) {
  if (!file) return;
  let sound;
  try {
    sound = await state.context.decodeAudioData(await file.arrayBuffer());
  } catch {
    return tell("The browser cannot decode this file's sound.", true);
  }
  stopFile();
  const node = (state.file = new AudioBufferSourceNode(state.context, { buffer: sound }));
  node.onended = () => { node.disconnect(); state.link?.send({ type: "end" }); };
  node.connect(state.link.input);
  node.start();
}

function stopFile() {
  if (!state.file) return;
  state.file.onended = null;
  state.file.stop();
  state.file.disconnect();
  state.file = null;
}

function interrupt() {
  stopFile();
  state.link.send({ type: "interrupt" });
}

function ended(reason, error = false) {
  if (!state.context) return;
  stopMicrophone();
  stopFile();
  state.link = null;
  state.context.close();
  state.context = null;
  $("stage").hidden = $("stop").hidden = true;
  $("start").disabled = false;
  $("file").value = "";
  tell(reason || "", error);
}

$("start").onclick = start;
$("stop").onclick = () => state.link?.close();
$("microphone").onclick = toggleMicrophone;
$("file").onchange = ({ target }) => speakFile(target.files[0]);
$("interrupt").onclick = interrupt;
$("say").onsubmit = (event) => {
  event.preventDefault();
  state.link.send({ type: "say", text: $("text").value });
  $("text").value = "";
};
addEventListener("pagehide", () => state.link?.close());
offers();
