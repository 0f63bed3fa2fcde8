"use strict";
const all = (q, root) => Array.from((root || document).querySelectorAll(q));
const one = (q) => document.querySelector(q);
// an element with attributes and children; text is only ever text
const make = (tag, about, ...children) => {
  const e = document.createElement(tag);
  Object.entries(about || {}).forEach(([k, v]) => { if (v !== null && v !== undefined) e.setAttribute(k, v); });
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
};
// what the page carries compressed: base64 of gzip of JSON
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(one(id).textContent.trim()), (c) => c.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
};
const page = { refresh: () => {} };
(() => {
  document.documentElement.classList.add("js");

  // policies shown: everything that belongs to a policy carries its id
  const hidden = new Set();
  const show = () => {
    all("[data-subject]").forEach((e) => e.classList.toggle("off", hidden.has(e.dataset.subject)));
    all("[data-toggle]").forEach((b) => b.setAttribute("aria-pressed", String(!hidden.has(b.dataset.toggle))));
  };
  all("[data-toggle]").forEach((b) => b.addEventListener("click", () => {
    const id = b.dataset.toggle;
    if (hidden.has(id)) hidden.delete(id); else hidden.add(id);
    show();
  }));
  page.refresh = show;

  // value circle: which profile is drawn large
  all(".pick").forEach((b) => b.addEventListener("click", () => {
    all(".pick").forEach((x) => x.setAttribute("aria-pressed", String(x === b)));
    all(".layer").forEach((g) => g.classList.toggle("on", g.dataset.profile === b.dataset.profile));
  }));

  // tables: a click on a column's head sorts by its numbers, a second click turns the order
  all("table.sortable").forEach((table) => {
    all("th[data-sort]", table).forEach((th) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      button.addEventListener("click", () => {
        const column = Array.from(th.parentNode.children).indexOf(th);
        const up = th.getAttribute("aria-sort") !== "ascending";
        all("th", table).forEach((x) => x.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (tr) => {
          const d = tr.children[column].querySelector("data");
          return d && d.value !== "" ? Number(d.value) : null;
        };
        const rows = all("tbody tr", table).map((tr) => [key(tr), tr]);
        rows.sort(([a], [b]) => (a === null) - (b === null) || (up ? a - b : b - a));
        rows.forEach(([, tr]) => tr.parentNode.append(tr));
      });
    });
  });

  // a table that is wider than the window scrolls sideways: then, and only then, Tab stops at it
  const fits = new ResizeObserver((seen) => seen.forEach(({ target: e }) => {
    if (e.scrollWidth > e.clientWidth) e.tabIndex = 0; else e.removeAttribute("tabindex");
  }));
  all(".scroll").forEach((e) => fits.observe(e));

  // contents: the section that is being read
  const links = new Map(all(".toc a").map((a) => [a.getAttribute("href").slice(1), a]));
  const watch = new IntersectionObserver((seen) => seen.forEach((s) => {
    if (!s.isIntersecting) return;
    links.forEach((a) => a.removeAttribute("aria-current"));
    const link = links.get(s.target.id);
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const bar = link.closest("ol");
    if (bar.scrollWidth > bar.clientWidth) bar.scrollLeft = link.offsetLeft - bar.clientWidth / 3;
  }), { rootMargin: "-15% 0px -75% 0px" });
  all("main > section, main > header").forEach((s) => watch.observe(s));
})();
