/** A live session over WebRTC: the browser keeps picture and sound together. */

import { api } from "./api.js";

const PATIENCE = 10_000; // milliseconds until a connection must stand
// Milliseconds for which sound and pictures are kept at least. Left to itself, the browser keeps each as long as its
// packets' jitter asks for, and needs seconds to align the two whenever that changes.
const KEPT = 80;

/**
 * @param {{context: AudioContext, video: HTMLVideoElement, told: (message: object) => void, ended: (reason: string) => void}} page
 * @returns the link: `input`, the node to which sound goes, `send(order)` and `close()`.
 */
export async function open(avatar, page) {
  const connection = new RTCPeerConnection(); // without servers: no other host is asked for anything
  const input = page.context.createMediaStreamDestination();
  const silence = new ConstantSourceNode(page.context, { offset: 0 }); // without any source no packet would be sent
  silence.connect(input);
  silence.start();
  connection.addTrack(input.stream.getAudioTracks()[0], input.stream);
  connection.addTransceiver("video", { direction: "recvonly" });
  const channel = connection.createDataChannel("orders");
  let reason = "";
  channel.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "closed") reason = `The session has ended: ${message.detail}.`;
    else page.told(message);
  };
  connection.ontrack = ({ streams, receiver }) => {
    receiver.jitterBufferTarget = KEPT;
    page.video.srcObject = streams[0];
  };
  try {
    await connection.setLocalDescription();
    await until(connection, "icegatheringstatechange", () => connection.iceGatheringState === "complete");
    const body = JSON.stringify({ avatar, sdp: connection.localDescription.sdp });
    const answer = await api("live/offer", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    await connection.setRemoteDescription(answer);
    await until(connection, "connectionstatechange", () => connection.connectionState === "connected");
  } catch (error) {
    connection.close();
    throw error;
  }
  const over = () => { connection.close(); page.video.srcObject = null; page.ended(reason); };
  channel.onclose = over;
  connection.onconnectionstatechange = () => ["failed", "closed"].includes(connection.connectionState) && over();
  const send = (order) => channel.readyState === "open" && channel.send(JSON.stringify(order));
  return { input, send, close: over };
}

/** Waits for a state of the connection. */
function until(connection, event, reached) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no connection over WebRTC")), PATIENCE);
    const look = () => {
      if (!reached()) return;
      clearTimeout(timer);
      connection.removeEventListener(event, look);
      resolve();
    };
    connection.addEventListener(event, look);
    look();
  });
}
