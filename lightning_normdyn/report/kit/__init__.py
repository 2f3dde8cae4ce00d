"""What all pages and figures are drawn with: canvas, style, scales, cards and the document."""
