"use strict";

// Shows the value of the slider while it is moved.
const slider = document.getElementById("alpha");
const meaning = document.getElementById("blend");
slider.addEventListener("input", () => {
  meaning.textContent = `${Math.round(slider.value * 100)}% visual`;
});
