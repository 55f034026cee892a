"use strict";
// Tables are whole without this script; it lets them be sorted and filtered, and opens notes for printing.
const shown = (cell) => cell.querySelector("span").textContent;
const order = new Intl.Collator("en", { numeric: true });

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const numbers = column.classList.contains("n");
  const place = column.cellIndex;
  const value = (row) => {
    const cell = row.cells[place];
    if (!numbers) return shown(cell);
    return "v" in cell.dataset ? Number(cell.dataset.v) : NaN;
  };
  const compare = (a, b) => {
    if (!numbers) return direction * order.compare(a, b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return direction * (a - b);
  };
  const rows = Array.from(body.rows, (row) => [value(row), row]);
  rows.sort((a, b) => compare(a[0], b[0]));
  body.append(...rows.map((pair) => pair[1]));
}

function addSorting(table) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.classList.contains("n")
        ? heading.getAttribute("aria-sort") !== "descending"
        : heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, heading, descending ? -1 : 1);
    });
  }
}

function addFilter(table, number) {
  const rows = Array.from(table.tBodies[0].rows);
  if (rows.length < 7) return;
  const tools = document.createElement("div");
  tools.className = "filter";
  const label = document.createElement("label");
  label.htmlFor = "filter-" + number;
  label.textContent = "Rows with";
  const input = document.createElement("input");
  input.id = label.htmlFor;
  input.type = "search";
  input.placeholder = "all of these words";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  count.textContent = rows.length + " rows";
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      left += !row.hidden;
    }
    count.textContent = words.length ? left + " of " + rows.length + " rows" : rows.length + " rows";
  });
  tools.append(label, input, count);
  table.parentElement.before(tools);
}

document.querySelectorAll("table[data-tools]").forEach((table, number) => {
  addSorting(table);
  addFilter(table, number);
});

// On paper nothing can be opened: what is noted in a table's cells stands below the table, once and numbered.
function printNotes(table) {
  const texts = [];
  table.querySelectorAll("details.note").forEach((note) => {
    const text = note.querySelector("span").textContent;
    if (!texts.includes(text)) texts.push(text);
    note.removeAttribute("open");
    note.querySelector("summary").dataset.number = texts.indexOf(text) + 1;
  });
  const list = document.createElement("ol");
  list.className = "printed";
  texts.forEach((text) => {
    list.append(document.createElement("li"));
    list.lastChild.textContent = text;
  });
  if (texts.length) table.parentElement.after(list);
}
addEventListener("beforeprint", () => document.querySelectorAll("table").forEach(printNotes));
addEventListener("afterprint", () => {
  document.querySelectorAll("ol.printed").forEach((list) => list.remove());
  document.querySelectorAll("summary[data-number]").forEach((summary) => delete summary.dataset.number);
});
