"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };
  const drawn = [];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const ink = css("--ink"), line = css("--line");
    const axis = (own) => ({ gridcolor: line, linecolor: line, zerolinecolor: line, fixedrange: true, ...own });
    return {
      margin: { l: 56, r: 16, t: 16, b: 48 },
      ...layout,
      dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--font"), size: 13, color: ink },
      hoverlabel: { bgcolor: css("--card"), bordercolor: line, font: { color: ink } },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
    };
  }

  function draw(element, figure) {
    const show = () => {
      const { data, layout: { height, ...layout } } = figure();
      element.style.height = height + "px"; // of the box, not of the layout: resizing the window fits plots to their boxes
      return Plotly.react(element, data, themed(layout), config);
    };
    show();
    drawn.push(show);
    return show;
  }

  document.querySelectorAll("[data-curve]").forEach((element) => {
    draw(element, () => payload.curves[element.dataset.curve]);
  });

  const select = document.getElementById("measure");
  if (select) {
    const show = draw(document.getElementById("plot-quality"), () => payload.quality[select.value]);
    const choose = () => {
      document.querySelectorAll("[data-measure]").forEach((part) => { part.hidden = part.dataset.measure !== select.value; });
      show();
    };
    select.addEventListener("change", choose);
    choose();
  }

  const heat = payload.heat;
  if (heat) {
    const slider = document.getElementById("round");
    const kind = () => document.querySelector("input[name=matrix]:checked").value;
    const size = heat.clients.length;
    const top = (name) => (name === "mixing" ? Math.max(...heat.values[name].flat(2)) : 1);
    const tops = Object.fromEntries(Object.keys(heat.values).map((name) => [name, top(name)]));
    const figure = () => ({
      data: [{
        type: "heatmap",
        x: heat.clients,
        y: heat.clients,
        z: heat.values[kind()][Number(slider.value)],
        zmin: 0,
        zmax: tops[kind()],
        colorscale: [[0, css("--low")], [1, css("--high")]],
        showscale: size > 12,
        colorbar: { thickness: 12, outlinewidth: 0, tickformat: ".2~g" },
        texttemplate: size <= 12 ? "%{z:.2f}" : "",
        hovertemplate: "%{y} from %{x}: %{z:.4f}<extra></extra>",
        xgap: size <= 40 ? 2 : 0,
        ygap: size <= 40 ? 2 : 0,
      }],
      layout: {
        height: Math.min(760, 150 + Math.max(180, size * 46)),
        margin: { l: 56, r: 8, t: 8, b: 56 },
        xaxis: { type: "category", title: { text: "gives" }, automargin: true, showgrid: false },
        yaxis: { type: "category", title: { text: "receives" }, autorange: "reversed", automargin: true, showgrid: false },
      },
    });
    const show = draw(document.getElementById("plot-heat"), figure);
    const move = () => {
      const round = heat.rounds[Number(slider.value)];
      document.getElementById("round-shown").textContent = round;
      slider.setAttribute("aria-valuetext", "round " + round);
      show();
    };
    slider.addEventListener("input", move);
    document.querySelectorAll("input[name=matrix]").forEach((radio) => radio.addEventListener("change", show));
    move();
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((show) => show()));
})();
