// The camera: its newest picture as a square of pixels, only while somebody wants it.

let stream = null;
const users = new Set();

export async function openCamera(video) {
  stream ??= await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 480}, height: {ideal: 480}}, audio: false});
  users.add(video);
  video.srcObject = stream;
  await video.play();
}

export function closeCamera(video) {
  video.srcObject = null;
  users.delete(video);
  if (users.size || !stream) return;
  stream.getTracks().forEach(track => track.stop()); // its light goes off
  stream = null;
}

// The middle square of the picture as {data, shape} of side x side pixels.
export function squareOf(video, side = 160) {
  const canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const least = Math.min(video.videoWidth, video.videoHeight);
  context.drawImage(video, (video.videoWidth - least) / 2, (video.videoHeight - least) / 2, least, least, 0, 0, side, side);
  const {data} = context.getImageData(0, 0, side, side);
  return {data: new Uint8Array(data.buffer), shape: [side, side, 4]};
}

export const whyNot = error => error.name === "NotAllowedError" ? "The browser does not let this page use the camera; allow it beside the address."
  : error.name === "NotFoundError" || !navigator.mediaDevices ? "There is no camera." : `The camera cannot be used: ${error.message}`;
