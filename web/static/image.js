"use strict";

// Arrow keys lead to the previous and next image; a click on the picture shows it in full size.
const shown = document.querySelector(".shown");
const link = document.querySelector("a.zoom");

function toggle() {
  const picture = link.querySelector("img");
  if (shown.classList.toggle("zoomed")) picture.src = link.href;
}

link?.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  toggle();
});

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, textarea")) return;
  if (event.key === "Escape" && shown?.classList.contains("zoomed")) toggle();
  const relation = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (!relation || shown?.classList.contains("zoomed")) return;
  document.querySelector(`a[rel="${relation}"]`)?.click();
});

const film = document.querySelector(".film");
const current = film?.querySelector("[aria-current]");
if (current) film.scrollLeft = current.offsetLeft - film.offsetLeft - (film.clientWidth - current.offsetWidth) / 2;
