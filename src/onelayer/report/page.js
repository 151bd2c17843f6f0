document.documentElement.classList.add("scripted");
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [one, other] = [key(a), key(b)];
        const order = one === "" || other === "" || isNaN(one) || isNaN(other)
          ? one.localeCompare(other, undefined, {numeric: true}) : one - other;
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (details) { details.open = true; target.scrollIntoView(); }
}
const closed = new Set();
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach(details => {
  closed.add(details);
  details.open = true;
}));
addEventListener("afterprint", () => {
  closed.forEach(details => { details.open = false; });
  closed.clear();
});
addEventListener("hashchange", reveal);
reveal();
