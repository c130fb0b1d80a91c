"""Charts as SVG text: plain functions of numbers, with colours and lines by CSS class, so that they follow light, dark and print."""
