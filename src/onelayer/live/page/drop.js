// Files and folders that are dropped anywhere on the page.

const IMAGE = /\.(png|jpe?g|gif|webp|bmp|tiff?|heic|heif|ppm)$/i;
export const isImage = file => file.type?.startsWith("image/") || IMAGE.test(file.name); // entries have no type

async function entriesOf(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found.sort((a, b) => a.name.localeCompare(b.name));
    found.push(...some);
  }
}

const fileOf = entry => new Promise((resolve, reject) => entry.file(resolve, reject));

async function filesBelow(folder, most) {
  const found = [];
  for (const entry of await entriesOf(folder)) {
    if (found.length >= most) break;
    if (entry.isDirectory) found.push(...await filesBelow(entry, most - found.length));
    else if (isImage(entry)) found.push(await fileOf(entry));
  }
  return found;
}

// Classes of a dropped folder: {name: files}. A folder without folders in it is one class.
export async function classesOf(folder, most) {
  const classes = {};
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) classes[entry.name] = await filesBelow(entry, most);
  }
  return Object.keys(classes).length ? classes : {[folder.name]: await filesBelow(folder, most)};
}

// Classes of the files of <input webkitdirectory>, by the folder they lie in.
export function classesOfFiles(files) {
  const classes = {};
  for (const file of [...files].filter(isImage).sort((a, b) => a.webkitRelativePath.localeCompare(b.webkitRelativePath))) {
    const parts = file.webkitRelativePath.split("/");
    const name = parts.length > 2 ? parts[1] : parts[0];
    (classes[name] ??= []).push(file);
  }
  return classes;
}

// Take what is dropped: onfiles(images, target element) or onfolder(entry).
export function takeDrops({onfiles, onfolder}) {
  let depth = 0;
  const mark = () => document.body.classList.toggle("dropping", depth > 0);
  addEventListener("dragenter", event => { if (event.dataTransfer?.types.includes("Files")) { depth++; mark(); } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); mark(); });
  addEventListener("dragover", event => event.preventDefault());
  addEventListener("drop", event => {
    event.preventDefault();
    depth = 0;
    mark();
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
    const folders = entries.filter(entry => entry.isDirectory);
    if (folders.length) folders.forEach(onfolder);
    else if (event.dataTransfer.files.length) onfiles([...event.dataTransfer.files], event.target);
  });
}
