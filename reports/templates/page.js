"use strict";
// The page is whole without this: it only lets the reader narrow and sort what is shown.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  const filters = document.querySelector(".filters");
  if (filters) {
    const rows = all("tr.claim"), status = filters.querySelector("[role=status]"), clear = filters.querySelector(".clear");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()])), find = filters.querySelector("#find");
    const groups = all("[data-filter]", filters).map((group) => ({ name: group.dataset.filter, buttons: all("button", group) }));
    const update = () => {
      const wanted = groups.map(({ name, buttons }) => [name, buttons.filter(pressed).map((button) => button.dataset.value)]);
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        row.hidden = !wanted.every(([name, values]) => !values.length || values.includes(row.dataset[name]))
          || !words.every((word) => texts.get(row).includes(word));
      }
      for (const head of all("tr.group")) head.hidden = !all("tr.claim", head.parentNode).some((row) => !row.hidden);
      status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
      clear.hidden = !words.length && !wanted.some(([, values]) => values.length);
    };
    const every = groups.flatMap(({ buttons }) => buttons);
    for (const button of every) button.addEventListener("click", () => { press(button, !pressed(button)); update(); });
    find.addEventListener("input", update);
    const reset = () => { find.value = ""; for (const button of every) press(button, false); update(); };
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

  // Columns sort by a button in their head; numbers by size, with what is no number last.
  const value = (cell) => {
    const text = cell.textContent.trim().replace(/[−]/g, "-").replace(/,/g, ""), number = parseFloat(text);
    const unit = / min$/.test(text) ? 60 : / h$/.test(text) ? 3600 : 1;
    return Number.isNaN(number) ? (text === "–" ? Infinity : text) : number * unit;
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table), body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = [...body.rows].map((row) => [value(row.cells[column]), row]);
        keyed.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1) * (down ? -1 : 1));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }
})();
