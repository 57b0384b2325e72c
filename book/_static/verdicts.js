// Where a page counts its verdicts, each count is a button: it leaves the rows of that verdict alone in sight, and, pressed again, shows all.
(() => {
const counts = document.querySelector(".claim-counts");
for (const chip of counts?.querySelectorAll(".chip") ?? []) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: chip.className, textContent: chip.textContent, ariaPressed: "false" });
  const word = chip.textContent.replace(/^\d+ /, "");
  button.addEventListener("click", () => {
    const isOn = button.ariaPressed === "false";
    for (const each of counts.querySelectorAll("button")) each.ariaPressed = String(isOn && each === button);
    for (const row of document.querySelectorAll(".claim-row:not(.claim-axis)"))
      row.hidden = isOn && !row.querySelector(".chip")?.textContent.startsWith(word);
  });
  chip.replaceWith(button);
}
})();
