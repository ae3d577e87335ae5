//! Colours, on light paper and on dark.
//!
//! - Lines are told apart also by people who see few colours (the palette of Okabe and Ito), and by the legend's order.
//! - The drawing library writes colours into each element. Rules in the document's head say what each becomes where the reader prefers
//!   dark pages; a reader without such a preference, and a program that knows no rules, shows the light ones.

use std::fmt::Write;

use plotters::style::RGBColor;

pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);
pub(super) const INK: RGBColor = RGBColor(36, 41, 47);
pub(super) const AXIS: RGBColor = RGBColor(140, 149, 159);
pub(super) const GRID: RGBColor = RGBColor(224, 228, 232);
pub(super) const SHADE: RGBColor = RGBColor(255, 233, 184);
/// Of the first series, the second, and so on.
pub(super) const LINES: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 145, 105),
    RGBColor(194, 92, 150),
    RGBColor(190, 130, 0),
    RGBColor(70, 160, 215),
    RGBColor(110, 110, 120),
];

/// What they become on dark paper.
const DARK: [(RGBColor, RGBColor); 12] = [
    (PAPER, RGBColor(13, 17, 23)),
    (INK, RGBColor(220, 226, 232)),
    (AXIS, RGBColor(118, 128, 138)),
    (GRID, RGBColor(42, 48, 56)),
    (SHADE, RGBColor(74, 58, 20)),
    (LINES[0], RGBColor(84, 174, 255)),
    (LINES[1], RGBColor(255, 140, 66)),
    (LINES[2], RGBColor(56, 205, 156)),
    (LINES[3], RGBColor(236, 140, 196)),
    (LINES[4], RGBColor(240, 190, 60)),
    (LINES[5], RGBColor(140, 205, 245)),
    (LINES[6], RGBColor(170, 175, 185)),
];

/// Gives a drawn document its title, for those who can't see it, and its dark colours; and takes out what says nothing.
pub(super) fn dress(drawn: &str, title: &str) -> String {
    let mut rules = String::new();
    for (light, dark) in DARK {
        for attribute in ["fill", "stroke"] {
            let _ = write!(rules, "[{attribute}=\"{}\"]{{{attribute}:{}}}", hex(light), hex(dark)); // a string takes everything
        }
    }
    let head = format!("<title>{}</title><style>@media (prefers-color-scheme:dark){{{rules}}}</style>\n", escaped(title));
    let drawn = drawn.replace(" opacity=\"1\"", "");
    let Some(begin) = drawn.find("<svg").and_then(|svg| drawn[svg..].find('>').map(|end| svg + end + 1)) else {
        return drawn;
    };
    let (before, after) = drawn.split_at(begin);
    let before = before.trim_end_matches('>');
    format!("{before} role=\"img\">{head}{}\n", after.trim_start_matches('\n').trim_end())
}

fn hex(colour: RGBColor) -> String {
    let RGBColor(red, green, blue) = colour;
    format!("#{red:02X}{green:02X}{blue:02X}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
