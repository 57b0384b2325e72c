// Where a page counts its verdicts, each count is a button that leaves the rows of that verdict alone in sight, with
// their axes, figures and sections. Pressed again, or by "all", everything is back.
(() => {
const counts = document.querySelector(".claim-counts"), cell = counts?.closest("div.cell");
if (!cell) return;
const lines = [...document.querySelectorAll(".claim-row")]; // rows, and below those of one unit their axis
const choose = (word) => {
  for (const button of counts.querySelectorAll("button")) button.ariaPressed = String(button.value === word);
  let isInUse = false;
  for (const line of lines) {
    const isAxis = line.matches(".claim-axis"), said = line.querySelector(".chip")?.textContent ?? "";
    line.hidden = isAxis ? !isInUse : !said.startsWith(word);
    isInUse = !isAxis && (isInUse || !line.hidden);
  }
  for (const part of document.querySelectorAll(".bd-article :is(section, div.cell:has(.claim-row))"))
    part.hidden = Boolean(word) && !part.querySelector(".claim-row:not([hidden])");
};
const made = (text, look, word) => {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, className: look, value: word, ariaPressed: String(!word) });
  button.addEventListener("click", () => {
    const isOn = word && button.ariaPressed === "false";
    choose(isOn ? word : "");
    if (isOn) lines.find((line) => !line.hidden)?.scrollIntoView({ block: "center" });
  });
  return button;
};
for (const chip of counts.querySelectorAll(".chip"))
  chip.replaceWith(made(chip.textContent, chip.className, chip.textContent.replace(/^\d+ /, "")));
const item = document.createElement("li");
item.append(made("all", "chip chip-none", ""));
counts.prepend(item);
cell.after(counts); // from where they stay in sight down the whole page
cell.querySelector(".cell_output").remove();
// What a link on the page leads to comes back.
addEventListener("click", ({ target }) => {
  const place = target.closest?.("a[href^='#']")?.hash.slice(1);
  if (place && document.getElementById(place)?.closest("[hidden]")) choose("");
});
})();
