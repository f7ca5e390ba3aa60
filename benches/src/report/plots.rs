//! Plots, drawn by plotters into SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use super::Outcome;
use crate::figures::Metric;

const WIDTH: u32 = 860;
const BAR: u32 = 34;
const AROUND: u32 = 70;
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);

/// The colour of a contestant; the same in every plot.
fn colour(name: &str, is_weir: bool) -> RGBColor {
    match name {
        "haproxy" => RGBColor(92, 138, 191),
        "nginx" => RGBColor(88, 161, 98),
        "envoy" => RGBColor(168, 110, 181),
        "direct" => RGBColor(150, 150, 150),
        _ if is_weir => RGBColor(219, 104, 52),
        _ => INK,
    }
}

/// The scenario's main figure: a bar to the median, a whisker over all rounds, a dot for each.
///
/// # Errors
/// The library's.
pub fn bars(outcome: &Outcome, metric: Metric) -> Result<Option<String>> {
    let rows: Vec<_> = outcome.rows.iter().filter_map(|row| Some((row, row.summary(metric)?))).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let most = rows.iter().map(|(_, summary)| summary.most).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.12;
    let count = rows.len();
    let height = BAR * u32::try_from(count)? + AROUND;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(42)
            .y_label_area_size(130)
            .build_cartesian_2d(0.0..most, (0..count - 1).into_segmented())
            .map_err(failed)?;
        // The first one on top.
        let place = |row: usize| count - 1 - row;
        let label = |value: &SegmentValue<usize>| match value {
            SegmentValue::CenterOf(at) => rows[place(*at)].0.label.clone(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .x_desc(metric.title())
            .y_labels(count)
            .y_label_formatter(&label)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        for (number, (row, summary)) in rows.iter().enumerate() {
            let at = place(number);
            let colour = colour(&row.name, row.is_weir);
            let (low, high) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
            let mut bar = Rectangle::new([(0.0, low), (summary.median, high)], colour.mix(0.75).filled());
            bar.set_margin(7, 7, 0, 0);
            let middle = SegmentValue::CenterOf(at);
            let whisker = PathElement::new([(summary.least, middle.clone()), (summary.most, middle.clone())], INK);
            let digits = metric.digits();
            let text = ("sans-serif", 13).into_font().color(&INK);
            let figure = EmptyElement::at((summary.most, middle.clone()))
                + Text::new(format!("{:.digits$}", summary.median), (8, -7), text);
            chart.draw_series([bar]).map_err(failed)?;
            chart.draw_series([whisker]).map_err(failed)?;
            chart.draw_series([figure]).map_err(failed)?;
            let dots = row.rounds.iter().filter_map(|round| round.get(&metric));
            let dot = |value: &f64| Circle::new((*value, middle.clone()), 3, INK.filled());
            chart.draw_series(dots.map(dot)).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

/// Latency by percentile, one line for each contestant, on a logarithmic scale.
///
/// # Errors
/// The library's.
pub fn latencies(outcome: &Outcome) -> Result<Option<String>> {
    const STEPS: [(Metric, &str); 4] =
        [(Metric::P50, "p50"), (Metric::P90, "p90"), (Metric::P99, "p99"), (Metric::P999, "p99.9")];
    let line = |row: &super::Row| -> Option<Vec<f64>> {
        STEPS.iter().map(|(metric, _)| row.summary(*metric).map(|summary| summary.median.max(0.001))).collect()
    };
    let lines: Vec<_> = outcome.rows.iter().filter_map(|row| Some((row, line(row)?))).collect();
    let values = || lines.iter().flat_map(|(_, line)| line.iter().copied());
    if lines.is_empty() {
        return Ok(None);
    }
    let range = values().fold(f64::INFINITY, f64::min) * 0.7..values().fold(0.0, f64::max) * 1.4;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.15..3.15, range.log_scale())
            .map_err(failed)?;
        let label = |at: &f64| {
            let near = STEPS.iter().zip([0.0, 1.0, 2.0, 3.0]).find(|(_, place)| (at - place).abs() < 0.01);
            near.map_or(String::new(), |((_, title), _)| (*title).to_owned())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .x_labels(4)
            .x_label_formatter(&label)
            .y_desc("ms")
            .y_labels(12)
            .y_label_formatter(&|value| format!("{value}"))
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        for (row, line) in &lines {
            let colour = colour(&row.name, row.is_weir);
            let points: Vec<(f64, f64)> = [0.0, 1.0, 2.0, 3.0].into_iter().zip(line.iter().copied()).collect();
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))
                .map_err(failed)?
                .label(row.label.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}
