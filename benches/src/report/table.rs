//! The terminal's view.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use super::Outcome;
use crate::figures::Metric;

/// A scenario as a table, with its promises below.
pub fn render(outcome: &Outcome) -> String {
    let metrics = columns(outcome);
    let failures: String = failures(outcome).map(|(label, why)| format!("{label} failed: {why}\n")).collect();
    let Some(main) = outcome.main_metric() else {
        return format!("\n{}: nothing was measured\n{failures}", outcome.name);
    };
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let mut head = vec![String::new(), main.title().to_owned(), "spread".to_owned(), "weir / this".to_owned()];
    head.extend(metrics.iter().skip(1).map(|metric| metric.title().to_owned()));
    table.set_header(head);
    for row in &outcome.rows {
        table.add_row(cells(outcome, row, main, &metrics));
    }
    let mut text = format!("\n{}: {}\n{table}\n", outcome.name, outcome.about);
    text += &failures;
    for verdict in &outcome.verdicts {
        text += &format!("{} {}: {}\n", mark(verdict.held), verdict.promise, verdict.found);
    }
    text
}

/// Who has no figures, or no more, and why.
fn failures(outcome: &Outcome) -> impl Iterator<Item = (&str, &str)> {
    outcome.rows.iter().filter_map(|row| Some((row.label.as_str(), row.failed.as_deref()?)))
}

/// What is shown; the data have all of it.
pub fn columns(outcome: &Outcome) -> Vec<Metric> {
    outcome.metrics().into_iter().filter(|metric| *metric != Metric::P90).collect()
}

fn cells(outcome: &Outcome, row: &super::Row, main: Metric, metrics: &[Metric]) -> Vec<Cell> {
    let number = |metric: Metric| {
        let digits = metric.digits();
        let text = row.summary(metric).map_or("-".to_owned(), |summary| match metric {
            Metric::Errors => format!("{:.0}", summary.most),
            _ => format!("{:.digits$}", summary.median),
        });
        Cell::new(text).set_alignment(CellAlignment::Right)
    };
    let digits = main.digits();
    let spread = row.summary(main).map_or("-".to_owned(), |of| format!("{:.digits$}-{:.digits$}", of.least, of.most));
    let mut cells = vec![Cell::new(&row.label), number(main), Cell::new(spread), Cell::new(outcome.ratio(row, main).text())];
    cells.extend(metrics.iter().skip(1).map(|metric| number(*metric)));
    cells
}

/// How a verdict is marked.
pub fn mark(held: Option<bool>) -> &'static str {
    match held {
        Some(true) => "held   ",
        Some(false) => "BROKEN ",
        None => "unknown",
    }
}
