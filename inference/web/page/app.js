// The page of the service. It uses the same API as everyone else; see /docs.

import { $, api, say, sentence } from "./api.js";

const state = { upload: null, stored: null, audio: null, faces: null, job: null, events: null, limits: null, offset: 0 };

// Inputs -------------------------------------------------------------------------------------------------------------

/** Connects a file input and its drop area with a function that takes the file. */
function picker(name, take) {
  const input = $(name), area = $(`${name}-drop`);
  input.addEventListener("change", () => input.files.length && take(input.files[0]));
  for (const type of ["dragenter", "dragover"]) area.addEventListener(type, (event) => { event.preventDefault(); area.classList.add("over"); });
  for (const type of ["dragleave", "drop"]) area.addEventListener(type, () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

/** Whether a file is within the limit of one request; says so if it is not. */
function fits(file, place) {
  const limit = state.limits?.upload_mb ?? Infinity;
  const tooLarge = file.size > limit * 1e6;
  say(place, tooLarge ? `This file has ${(file.size / 1e6).toFixed(0)} MB; this service takes at most ${limit} MB.` : "", tooLarge);
  return !tooLarge;
}

async function takeFace(file) {
  state.faces?.abort();
  state.upload = state.stored = null;
  $("people").hidden = true;
  ready();
  if (!fits(file, "face-message")) return;
  $("face-name").textContent = file.name;
  $("face-hint").textContent = "choose or drop another one to replace it";
  $("face-drop").classList.add("filled");
  preview(file);
  await findPeople("face", file);
}

/** Lists the people in a new face file, or in an earlier upload whose used part has changed. */
async function findPeople(part, value) {
  state.faces?.abort();
  say("face-message", "Looking for faces …");
  const form = new FormData();
  form.append(part, value);
  form.append("options", JSON.stringify(options()));
  state.upload = null;
  ready();
  const abort = (state.faces = new AbortController());
  try {
    showPeople(await api("faces", { method: "POST", body: form, signal: abort.signal }));
  } catch (error) {
    if (error.name !== "AbortError") say("face-message", error.message, true);
  }
  ready();
}

function preview(file) {
  const place = $("face-preview");
  for (const old of place.children) URL.revokeObjectURL(old.src);
  const element = document.createElement(file.type.startsWith("image/") ? "img" : "video");
  Object.assign(element, { muted: true, playsInline: true, preload: "metadata", alt: "", onerror: () => (place.hidden = true) });
  element.src = URL.createObjectURL(file);
  place.replaceChildren(element);
  place.hidden = false;
}

function showPeople(found) {
  state.upload = state.stored = found.upload;
  const several = found.people.length > 1;
  say("face-message", several ? `${found.people.length} people found.` : "One person found.");
  $("people-list").replaceChildren(...found.people.map((person, index) => personCard(person, index, found.original.photo)),
    choiceCard("all", "Everyone", "with this one speech"),
    ...(found.people.some((person) => person.speaking) ? [choiceCard("speaking", "Whoever speaks", "in the video's own sound")] : []));
  $("people").hidden = !several;
}

function personCard(person, index, photo) {
  const picture = Object.assign(document.createElement("img"), { src: person.thumbnail, alt: "", width: 96, height: 96 });
  const facts = [photo ? "" : `${clock(person.start)} to ${clock(person.end)}`, person.speaking ? "speaks" : ""].filter(Boolean);
  return card(person.id, index === 0, picture, `Person ${index + 1}`, facts.join(", "));
}

/** A choice beside the faces. */
function choiceCard(value, name, hint) {
  const picture = Object.assign(document.createElement("span"), { className: "several", textContent: value === "all" ? "👥" : "💬" });
  picture.setAttribute("aria-hidden", "true");
  return card(value, false, picture, name, hint);
}

function card(value, checked, picture, name, hint) {
  const label = Object.assign(document.createElement("label"), { className: "person" });
  label.append(Object.assign(document.createElement("input"), { type: "radio", name: "who", value, checked }), picture,
    Object.assign(document.createElement("strong"), { textContent: name }));
  if (hint) label.append(Object.assign(document.createElement("span"), { className: "hint", textContent: hint }));
  return label;
}

function takeAudio(file, name = file.name) {
  state.audio = null;
  if (fits(file, "audio-message")) {
    state.audio = file;
    $("audio-name").textContent = name;
    $("audio-hint").textContent = "choose or drop another one to replace it";
    $("audio-drop").classList.add("filled");
    const player = $("audio-player");
    if (player.src) URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(file);
    player.hidden = false;
    player.onerror = () => (player.hidden = true);
  }
  ready();
}

/** Records with the microphone until the button is pressed again. */
async function record() {
  if (state.recorder) return state.recorder.stop();
  if (!navigator.mediaDevices) return say("audio-message", "Browsers allow the microphone only on this machine or with https.", true);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return say("audio-message", "The microphone cannot be used: none is there, or the browser was not allowed to.", true);
  }
  const parts = [], recorder = (state.recorder = new MediaRecorder(stream)), begin = Date.now();
  const tick = setInterval(() => ($("record-text").textContent = `Stop (${clock((Date.now() - begin) / 1000)})`), 250);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    clearInterval(tick);
    stream.getTracks().forEach((track) => track.stop());
    state.recorder = null;
    $("record").classList.remove("recording");
    $("record-text").textContent = "Record again";
    takeAudio(new Blob(parts, { type: recorder.mimeType }), `Recording of ${clock((Date.now() - begin) / 1000)}`);
  };
  recorder.start();
  say("audio-message", "");
  $("record").classList.add("recording");
  $("record-text").textContent = "Stop (0:00)";
}

const ready = () => ($("go").disabled = !(state.upload && state.audio));

/** The options that differ from the command's defaults, by their names. */
function options() {
  const form = $("job").elements, values = {};
  for (const name of ["sync_mode", "tail", "photo_motion"]) if (form[name].selectedIndex) values[name] = form[name].value;
  for (const name of ["strength", "keep_audio", "start", "end", "resize_factor", "crf"])
    if (form[name].value !== "" && form[name].value !== (form[name].defaultValue ?? form[name].options?.[0].value)) values[name] = Number(form[name].value);
  if (!form.rest.checked) values.rest = false;
  if (form.rotate.checked) values.rotate = true;
  return values;
}

/** The options of a job: those above, and who speaks, if there is a choice. */
function jobOptions() {
  const who = document.querySelector("[name=who]:checked")?.value;
  if (!who || $("people").hidden) return options();
  return { ...options(), ...(["all", "speaking"].includes(who) ? { select: who } : { face_id: Number(who) }) };
}

// The job ------------------------------------------------------------------------------------------------------------

async function start(event) {
  event.preventDefault();
  $("go").disabled = true;
  say("start-message", "");
  const form = new FormData();
  form.append("upload", state.upload);
  form.append("audio", state.audio, "audio");
  form.append("options", JSON.stringify(jobOptions()));
  try {
    const job = await api("jobs", { method: "POST", body: form });
    history.replaceState(null, "", `#${job.id}`);
    follow(job);
    $("options").open = false;
    $("progress-title").focus();
  } catch (error) {
    say("start-message", error.message, true);
    ready();
  }
}

/** Shows a job and follows it by its event stream; the browser reconnects if the service is restarted. */
function follow(job) {
  state.events?.close();
  $("result").hidden = true;
  $("progress").hidden = false;
  show(job);
  const events = (state.events = new EventSource(`api/jobs/${job.id}/events`));
  events.addEventListener("state", (event) => show(JSON.parse(event.data)));
  events.onerror = async () => {
    $("eta").textContent = "The service does not answer; trying again …";
    if (events.readyState !== EventSource.CLOSED) return;
    try { show(await api(`jobs/${job.id}`)); } catch (error) { end(error.message); }
  };
}

const STAGES = { people: "Finding the people", speakers: "Finding out who speaks", analysis: "Following the face", render: "Moving the lips" };

function show(job) {
  state.job = job;
  if (job.state === "done") return showResult(job);
  if (job.state === "failed") return end(`This did not work: ${job.error.detail}`);
  if (job.state === "cancelled") return end("Cancelled.", false);
  const waiting = job.state === "queued", stopping = job.state === "cancelling";
  const title = stopping ? "Cancelling" : waiting ? "Waiting" : STAGES[job.stage] ?? "Starting";
  if ($("progress-title").textContent !== title) $("stage").textContent = title;
  $("progress-title").textContent = title;
  $("bar").value = job.progress;
  const ahead = job.position === 1 ? "1 job is" : `${job.position} jobs are`;
  $("eta").textContent = waiting ? (job.position ? `${ahead} before this one.` : "This one is next.")
    : `${Math.round(job.progress * 100)} %${job.eta === null ? "" : `, about ${span(job.eta)} left`}`;
  $("cancel").disabled = stopping;
}

/** Leaves the progress view with a message. */
function end(message, isError = true) {
  state.events?.close();
  history.replaceState(null, "", location.pathname);
  $("progress").hidden = true;
  say("start-message", message, isError);
  ready();
}

async function cancel() {
  $("cancel").disabled = true;
  try {
    const job = await api(`jobs/${state.job.id}`, { method: "DELETE" });
    if (job) show(job);
  } catch (error) { end(error.message); }
}

// The result ---------------------------------------------------------------------------------------------------------

function showResult(job) {
  state.events?.close();
  const first = $("result").hidden;
  $("progress").hidden = true;
  $("result").hidden = false;
  if (!first) return;
  state.offset = job.options.start ?? 0;
  $("video").src = `api/jobs/${job.id}/result`;
  $("download").href = `api/jobs/${job.id}/result`;
  $("download").download = `wav2lip-${job.id.slice(0, 8)}.mp4`;
  const photo = job.original.photo;
  $("original").hidden = photo;
  $("original-photo").hidden = !photo;
  $("original-missing").hidden = true;
  $(photo ? "original-photo" : "original").src = `api/jobs/${job.id}/original`;
  const { frames, faces, duration } = job.report;
  const unchanged = faces < frames ? `; ${frames - faces} of them without a usable face, left unchanged.` : ".";
  $("report").textContent = [`${duration.toFixed(1)} s, ${frames} frames${unchanged}`, ...job.report.notes.map(sentence)].join(" ");
  $("stage").textContent = "The result is ready.";
  $("result-title").focus();
  ready();
}

const original = $("original"), video = $("video");

/** One button plays both; the original follows the result, without sound. */
function playBoth() {
  if (!video.paused) return video.pause();
  if (video.ended) video.currentTime = 0;
  video.play();
}

function alignOriginal() {
  const wanted = video.currentTime + state.offset;
  if (original.hidden || !original.duration || wanted > original.duration) return;
  if (Math.abs(original.currentTime - wanted) > 0.12) original.currentTime = wanted;
  if (!video.paused && original.paused && !original.ended) original.play().catch(() => {});
}

function tick() {
  const length = video.duration || 0;
  $("seek").max = length || 1;
  $("seek").value = video.currentTime;
  $("seek").setAttribute("aria-valuetext", `${clock(video.currentTime)} of ${clock(length)}`);
  $("time").textContent = `${clock(video.currentTime)} / ${clock(length)}`;
}

function connectPlayer() {
  $("play").onclick = playBoth;
  video.onplay = () => { $("play").textContent = "Pause"; alignOriginal(); };
  video.onpause = video.onended = () => { $("play").textContent = "Play"; original.pause(); alignOriginal(); };
  video.ontimeupdate = () => { tick(); alignOriginal(); };
  video.onloadedmetadata = tick;
  original.onloadeddata = alignOriginal;
  original.onerror = () => { original.hidden = true; $("original-missing").hidden = false; };
  $("seek").oninput = () => { video.currentTime = $("seek").value; };
}

async function remove() {
  try { await api(`jobs/${state.job.id}`, { method: "DELETE" }); } catch (error) { if (error.status !== 404) return say("start-message", error.message, true); }
  another();
  say("start-message", "The video and its files are deleted.");
}

function another() {
  video.pause();
  for (const element of [video, original]) { element.removeAttribute("src"); element.load(); }
  $("original-photo").removeAttribute("src");
  $("result").hidden = true;
  history.replaceState(null, "", location.pathname);
  $("face").focus();
}

// Times --------------------------------------------------------------------------------------------------------------

/** 75.4 → "1:15" */
function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A length of time in words. */
function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// The start ----------------------------------------------------------------------------------------------------------

async function begin() {
  picker("face", takeFace);
  picker("audio", takeAudio);
  connectPlayer();
  $("record").onclick = record;
  $("job").onsubmit = start;
  $("cancel").onclick = cancel;
  $("again").onclick = another;
  $("delete").onclick = remove;
  for (const name of ["start", "end", "rotate", "resize_factor"])  // people are numbered within the used part
    $("job").elements[name].addEventListener("change", () => state.stored && findPeople("upload", state.stored));
  for (const [range, output] of [["strength", "strength-value"], ["keep_audio", "keep-audio-value"]])
    $(range).oninput = () => ($(output).textContent = Number($(range).value).toFixed(1));
  try {
    const health = await api("health");
    state.limits = health.limits;
    $("live").hidden = !health.live;
    if (health.status === "failed") say("service", `The service cannot work: ${health.detail}`, true);
    $("mark-note").textContent = health.signed ? "in the file's metadata and by a signed C2PA manifest." : "in the file's metadata.";
    if (/^#[0-9a-f]{32}$/.test(location.hash)) follow(await api(`jobs/${location.hash.slice(1)}`));
  } catch (error) {
    history.replaceState(null, "", location.pathname);
    say("service", error.message, true);
  }
}

begin();
