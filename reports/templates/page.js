"use strict";
// The page is whole without this: it only lets the reader narrow what is shown.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  const filters = document.querySelector(".filters");
  if (filters) {
    const rows = all("tr.claim"), status = filters.querySelector("[role=status]"), clear = filters.querySelector(".clear");
    const groups = all("[data-filter]", filters).map((group) => ({ name: group.dataset.filter, buttons: all("button", group) }));
    const update = () => {
      const wanted = groups.map(({ name, buttons }) => [name, buttons.filter(pressed).map((button) => button.dataset.value)]);
      for (const row of rows) row.hidden = !wanted.every(([name, values]) => !values.length || values.includes(row.dataset[name]));
      for (const head of all("tr.group")) head.hidden = !all("tr.claim", head.parentNode).some((row) => !row.hidden);
      status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
      clear.hidden = !wanted.some(([, values]) => values.length);
    };
    const every = groups.flatMap(({ buttons }) => buttons);
    for (const button of every) button.addEventListener("click", () => { press(button, !pressed(button)); update(); });
    const reset = () => { for (const button of every) press(button, false); update(); };
    clear.addEventListener("click", () => { reset(); every[0].focus(); });
    // A link to a row that is filtered out shows it again.
    addEventListener("hashchange", () => {
      const target = document.getElementById(location.hash.slice(1));
      if (target && target.matches("tr.claim[hidden]")) { reset(); target.scrollIntoView(); }
    });
    filters.hidden = false;
  }

  for (const group of all("[data-samples]")) {
    const buttons = all("button", group);
    for (const button of buttons) button.addEventListener("click", () => {
      for (const other of buttons) press(other, other === button);
      const wanted = button.dataset.value;
      for (const item of all("[data-correct]", group.parentNode)) item.hidden = wanted !== "all" && item.dataset.correct !== wanted;
    });
    group.hidden = false;
  }
})();
