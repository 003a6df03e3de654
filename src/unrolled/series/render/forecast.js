/** Everything of the chosen series. */
function show(panel) {
  const [fan] = panel.fans;
  about("fan", say("forecast", fan.median.length, when(panel, fan.origin)));
  element("numbers").replaceChildren(
    ...fan.median.map((_, k) => {
      const row = document.createElement("tr");
      const cells = [when(panel, fan.origin + 1 + k), ...panel.columns.map((column) => valued(column[k]))];
      row.append(
        ...cells.map((text, place) => {
          const cell = document.createElement(place ? "td" : "th");
          cell.textContent = text;
          if (!place) cell.scope = "row";
          return cell;
        }),
      );
      return row;
    }),
  );
  return drawAll({ fan: fanRows(panel, fan) });
}

choose({});
