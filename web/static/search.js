"use strict";

// Shows the value of the slider while it is moved.
const slider = document.getElementById("alpha");
const meaning = document.getElementById("blend");
slider.addEventListener("input", () => {
  meaning.textContent = `${Math.round(slider.value * 100)}% visual`;
});

// A picture is searched by as soon as it is chosen, or dropped anywhere on the page.
const form = document.getElementById("by-picture");
const picture = document.getElementById("picture");
form.querySelector("button").hidden = true;
picture.addEventListener("change", () => picture.files.length && form.submit());
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  picture.files = event.dataTransfer.files;
  form.submit();
});
