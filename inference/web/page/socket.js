/** A live session over a WebSocket, where WebRTC does not get through: frames and their sound are put together here. */

const DELAY = 0.12; // seconds that frames wait, against an uneven network
const HEADER = 12; // bytes: time, length of the picture

/**
 * @param {{context: AudioContext, canvas: HTMLCanvasElement, told: (message: object) => void, ended: (reason: string) => void}} page
 * @returns the link: `input`, the node to which sound goes, `send(order)` and `close()`.
 */
export async function open(avatar, page) {
  const { context } = page, rate = context.sampleRate;
  await context.audioWorklet.addModule("microphone.js");
  const address = new URL(`api/live/${encodeURIComponent(avatar)}?rate=${rate}`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  const sendRaw = (data) => socket.readyState === WebSocket.OPEN && socket.send(data);
  const input = new AudioWorkletNode(context, "microphone");
  input.port.onmessage = ({ data }) => sendRaw(data);
  const ready = await new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(JSON.parse(data));
    socket.onclose = ({ reason }) => reject(new Error(reason || "the service refuses the session"));
  });
  const player = new Player(page, ready);
  socket.onmessage = ({ data }) => (typeof data === "string" ? page.told(JSON.parse(data)) : player.take(data));
  socket.onclose = ({ reason }) => { player.stopped = true; page.ended(reason); };
  return { input, send: (order) => sendRaw(JSON.stringify(order)), close: () => socket.close() };
}

/** Shows frames and plays their sound on the audio clock. */
class Player {
  constructor({ context, canvas }, { width, height }) {
    Object.assign(this, { context, canvas, frames: [], origin: null, stopped: false, shown: 0, heard: 0, offset: 0 });
    Object.assign(canvas, { width, height });
    window.livePlayer = this;
    requestAnimationFrame(() => this.show());
  }

  /** One frame: its sound is scheduled and its picture queued for the same moment of the sound's clock. */
  async take(data) {
    const view = new DataView(data);
    const time = view.getFloat64(0, true);
    const end = HEADER + view.getUint32(8, true);
    const now = this.context.currentTime;
    if (this.origin === null || this.origin + time < now) this.origin = now + DELAY - time; // at first, and if late
    const at = this.origin + time;
    const samples = new Int16Array(data.slice(end));
    this.play(samples, at + 0.04 - samples.length / this.context.sampleRate); // sound of dropped frames comes before
    const picture = await createImageBitmap(new Blob([data.slice(HEADER, end)], { type: "image/jpeg" }));
    this.frames.push({ at, picture });
  }

  play(samples, at) {
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, this.context.sampleRate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.start(Math.max(at, 0));
    if (samples.some((sample) => Math.abs(sample) > 300)) this.heard += 1;
  }

  show() {
    if (this.stopped) return;
    let due = null;
    while (this.frames.length && this.frames[0].at <= this.context.currentTime) {
      due?.picture.close();
      due = this.frames.shift();
    }
    if (due) {
      this.canvas.getContext("2d").drawImage(due.picture, 0, 0);
      due.picture.close();
      this.shown += 1;
      this.offset = this.context.currentTime - due.at; // seconds by which the picture follows its sound
    }
    requestAnimationFrame(() => this.show());
  }
}
