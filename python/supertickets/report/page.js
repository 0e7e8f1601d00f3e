// Sorting by a click on a column's head, and open details on paper. The page is whole without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const label = head.querySelector(".label");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...label.childNodes);
    label.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...body.rows].sort((a, b) => order(a, b, column, down));
      body.append(...sorted);
    });
  });
}

function order(a, b, column, down) {
  const [x, y] = [a.cells[column], b.cells[column]];
  if (x.dataset.order === undefined && y.dataset.order === undefined) {
    return (down ? -1 : 1) * x.textContent.localeCompare(y.textContent);
  }
  // A missing figure stays last, whichever way the column is sorted.
  if (x.dataset.order === undefined) return 1;
  if (y.dataset.order === undefined) return -1;
  return (down ? -1 : 1) * (Number(x.dataset.order) - Number(y.dataset.order));
}

window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
