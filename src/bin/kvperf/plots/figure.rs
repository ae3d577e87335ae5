//! A figure: panels above each other that share the horizontal axis, drawn as SVG.
//!
//! - The same figure is the same bytes: nothing in it depends on the machine or the time.
//! - It has its own paper, so that it can be read on any page, and other colours where the reader prefers a dark one.

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::scale::Axis;
use super::theme::{self, AXIS, GRID, INK, PAPER, SHADE};

/// Pixels of the whole, and of its parts.
const WIDTH: u32 = 860;
const TITLE_HEIGHT: u32 = 44;
const ONE_PANEL_HEIGHT: u32 = 360;
const PANEL_HEIGHT: u32 = 230;
const LEGEND_WIDTH: u32 = 190;
const Y_LABELS_WIDTH: u32 = 74;
const X_LABELS_HEIGHT: u32 = 46;
const LEGEND_LINE: i32 = 22;
/// Letters, pixels high.
const TITLE_SIZE: u32 = 19;
const TEXT_SIZE: u32 = 15;
/// Longest name of a series that fits beside the plot, letters.
const NAME_LETTERS: usize = 23;

/// A line through values.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// For the legend.
    pub(crate) name: String,
    /// In the order of the horizontal axis.
    pub(crate) points: Vec<(f64, f64)>,
    /// A dot at each point: where they are few and measured one by one.
    pub(crate) has_dots: bool,
    /// A ring around this one.
    pub(crate) ring: Option<(f64, f64)>,
}

/// Lines over one vertical axis.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// All of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) x: Axis,
    /// From the top.
    pub(crate) panels: Vec<Panel>,
    /// Stretches of the horizontal axis that are shaded, by its values.
    pub(crate) shades: Vec<(f64, f64)>,
    /// What a shade means.
    pub(crate) shade_name: String,
    /// What a ring means.
    pub(crate) ring_name: String,
}

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a plot can't be drawn: {0}")]
pub(crate) struct PlotError(String);

type Fault<E> = DrawingAreaErrorKind<E>;

impl<E: std::error::Error + Send + Sync> From<Fault<E>> for PlotError {
    fn from(error: Fault<E>) -> PlotError {
        PlotError(error.to_string())
    }
}

impl Figure {
    /// As an SVG document.
    ///
    /// # Errors
    /// The drawing library refuses; for text in memory that is a bug.
    pub(crate) fn svg(&self) -> Result<String, PlotError> {
        let panel = if self.panels.len() == 1 { ONE_PANEL_HEIGHT } else { PANEL_HEIGHT };
        let panels = u32::try_from(self.panels.len()).unwrap_or(u32::MAX);
        let height = TITLE_HEIGHT + panel.saturating_mul(panels);
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
            root.fill(&PAPER)?;
            let style = ("sans-serif", TITLE_SIZE).into_font().style(FontStyle::Bold).color(&INK);
            root.draw(&Text::new(self.title.clone(), (16, 16), style))?;
            let (_, body) = root.split_vertically(TITLE_HEIGHT);
            for (area, (index, panel)) in body.split_evenly((self.panels.len(), 1)).iter().zip(self.panels.iter().enumerate()) {
                self.panel(area, panel, index + 1 == self.panels.len())?;
            }
            root.present()?;
        }
        Ok(theme::dress(&text, &self.title))
    }

    fn panel<B>(&self, area: &DrawingArea<B, Shift>, panel: &Panel, is_last: bool) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
    {
        let (plot, legend) = area.split_horizontally(WIDTH - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(6)
            .margin_right(14)
            .margin_left(8)
            .x_label_area_size(X_LABELS_HEIGHT)
            .y_label_area_size(Y_LABELS_WIDTH)
            .build_cartesian_2d(self.x.clone(), panel.y.clone())?;
        let whole = panel.y.range();
        let shade = |(from, to): &(f64, f64)| Rectangle::new([(*from, whole.start), (*to, whole.end)], SHADE.filled());
        chart.draw_series(self.shades.iter().map(shade))?;
        let letters = ("sans-serif", TEXT_SIZE).into_font().color(&INK);
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(AXIS).set_all_tick_mark_size(4);
        mesh.label_style(letters).y_desc(&panel.y.label);
        if is_last {
            mesh.x_desc(&self.x.label);
        }
        mesh.draw()?;
        for (series, colour) in panel.series.iter().zip(theme::LINES.iter().cycle()) {
            chart.draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))?;
            if series.has_dots {
                chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
            chart.draw_series(series.ring.iter().map(|point| Circle::new(*point, 8, colour.stroke_width(2))))?;
        }
        self.legend(&legend, panel)
    }

    fn legend<B>(&self, area: &DrawingArea<B, Shift>, panel: &Panel) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
    {
        let letters = ("sans-serif", TEXT_SIZE).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        let mut y = 16;
        for (series, colour) in panel.series.iter().zip(theme::LINES.iter().cycle()) {
            area.draw(&PathElement::new([(4, y), (28, y)], colour.stroke_width(3)))?;
            let name: String = series.name.chars().take(NAME_LETTERS).collect();
            area.draw(&Text::new(name, (36, y), letters.clone()))?;
            y += LEGEND_LINE;
        }
        if !self.shades.is_empty() {
            area.draw(&Rectangle::new([(4, y - 7), (28, y + 7)], SHADE.filled()))?;
            area.draw(&Text::new(self.shade_name.clone(), (36, y), letters.clone()))?;
            y += LEGEND_LINE;
        }
        if panel.series.iter().any(|series| series.ring.is_some()) {
            area.draw(&Circle::new((16, y), 8, AXIS.stroke_width(2)))?;
            area.draw(&Text::new(self.ring_name.clone(), (36, y), letters))?;
        }
        Ok(())
    }
}
