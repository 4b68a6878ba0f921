/** The live page: sound goes to the service over a WebSocket; pictures and their sound come back and are shown together. */

const RATE = 48000; // samples per second, both ways
const DELAY = 0.12; // seconds that frames wait, against an uneven network
const HEADER = 12; // bytes: time, length of the picture

const $ = (id) => document.getElementById(id);
const state = { socket: null, context: null, stream: null, origin: null, frames: [], shown: 0, heard: 0, offset: 0 };
window.liveState = state;

function tell(text, error = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", error);
  $("message").hidden = !text;
}

async function offers() {
  const response = await fetch("api/live");
  if (response.status === 401) return tell("This service needs its token: enter it on the first page, then come back.", true);
  const { avatars, tts } = await response.json();
  $("avatar").replaceChildren(...avatars.map((name) => new Option(name.replace(/\.[^.]*$/, ""), name)));
  $("say").hidden = !tts;
  $("start").disabled = !avatars.length;
  if (!avatars.length) tell("No avatars: start the service with --avatars FOLDER.");
}

function start() {
  const address = new URL(`api/live/${encodeURIComponent($("avatar").value)}?rate=${RATE}`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  state.context = new AudioContext({ sampleRate: RATE });
  const socket = (state.socket = new WebSocket(address));
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? told(JSON.parse(data)) : received(data));
  socket.onclose = ({ reason }) => ended(reason);
  $("start").disabled = true;
  tell("The person is being prepared …");
}

function told(message) {
  if (message.type === "problem") return tell(message.detail, true);
  if (message.type !== "ready") return;
  Object.assign($("picture"), { width: message.width, height: message.height });
  Object.assign(state, { origin: null, frames: [], shown: 0, heard: 0 });
  $("stage").hidden = $("stop").hidden = false;
  tell("");
  requestAnimationFrame(show);
}

/** One frame: its sound is scheduled and its picture queued for the same moment of the sound's clock. */
async function received(data) {
  const view = new DataView(data);
  const time = view.getFloat64(0, true);
  const end = HEADER + view.getUint32(8, true);
  const now = state.context.currentTime;
  if (state.origin === null || state.origin + time < now) state.origin = now + DELAY - time; // at first, and if late
  const at = state.origin + time;
  const samples = new Int16Array(data.slice(end));
  play(samples, at + 0.04 - samples.length / RATE); // sound of dropped frames comes before
  const picture = await createImageBitmap(new Blob([data.slice(HEADER, end)], { type: "image/jpeg" }));
  state.frames.push({ at, picture });
}

function play(samples, at) {
  if (!samples.length) return;
  const buffer = state.context.createBuffer(1, samples.length, RATE);
  buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
  const source = state.context.createBufferSource();
  source.buffer = buffer;
  source.connect(state.context.destination);
  source.start(Math.max(at, 0));
  if (samples.some((sample) => Math.abs(sample) > 300)) state.heard += 1;
}

function show() {
  if (!state.socket) return;
  let due = null;
  while (state.frames.length && state.frames[0].at <= state.context.currentTime) {
    due?.picture.close();
    due = state.frames.shift();
  }
  if (due) {
    $("picture").getContext("2d").drawImage(due.picture, 0, 0);
    due.picture.close();
    state.shown += 1;
    state.offset = state.context.currentTime - due.at; // seconds by which the picture follows its sound
  }
  requestAnimationFrame(show);
}

function send(message) {
  if (state.socket?.readyState === WebSocket.OPEN) state.socket.send(message);
}

async function toggleMicrophone() {
  if (state.stream) return stopMicrophone();
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
  } catch {
    return tell("The microphone cannot be used: allow it in the browser.", true);
  }
  await state.context.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(state.context, "microphone");
  node.port.onmessage = ({ data }) => send(data);
  state.context.createMediaStreamSource(state.stream).connect(node);
  $("microphone").setAttribute("aria-pressed", "true");
  $("microphone").textContent = "Stop speaking";
}

function stopMicrophone() {
  state.stream?.getTracks().forEach((track) => track.stop());
  if (state.stream) send(JSON.stringify({ type: "end" }));
  state.stream = null;
  $("microphone").setAttribute("aria-pressed", "false");
  $("microphone").textContent = "Speak";
}

async function sendFile(file) {
  if (!file) return;
  let sound;
  try {
    sound = await state.context.decodeAudioData(await file.arrayBuffer()); // resampled to RATE
  } catch {
    return tell("The browser cannot decode this file's sound.", true);
  }
  const samples = Int16Array.from(sound.getChannelData(0), (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
  for (let first = 0; first < samples.length; first += RATE) send(samples.slice(first, first + RATE).buffer);
  send(JSON.stringify({ type: "end" }));
}

function ended(reason) {
  stopMicrophone();
  state.socket = null;
  state.context?.close();
  $("stage").hidden = $("stop").hidden = true;
  $("start").disabled = false;
  tell(reason || "");
}

$("start").onclick = start;
$("stop").onclick = () => state.socket?.close();
$("microphone").onclick = toggleMicrophone;
$("file").onchange = ({ target }) => sendFile(target.files[0]);
$("interrupt").onclick = () => send(JSON.stringify({ type: "interrupt" }));
$("say").onsubmit = (event) => {
  event.preventDefault();
  send(JSON.stringify({ type: "say", text: $("text").value }));
  $("text").value = "";
};
offers();
