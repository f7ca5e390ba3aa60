//! One page that needs nothing else: figures, plots, and how it was done.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::table::columns;
use super::{Outcome, Report, plots};
use crate::figures::Metric;

const STYLE: &str = include_str!("page.css");

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn render(report: &Report) -> Result<String> {
    let mut sections = Vec::new();
    for outcome in &report.outcomes {
        sections.push(section(outcome)?);
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "weir beside its rivals, " (report.date) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "weir beside its rivals" }
                    p { (report.date) " · " (report.effort) }
                }
                (summary(report))
                @for section in &sections { (section) }
                (method(report))
            }
        }
    };
    Ok(page.into_string())
}

fn summary(report: &Report) -> Markup {
    html! {
        section {
            h2 { "In short" }
            p { "weir's figure for each figure of another: below 1 weir takes less. From the scenario's first measure." }
            table {
                thead { tr { th {} th { "measure" } th { "weir" } @for name in rivals(report) { th { "weir / " (name) } } th { "promises" } } }
                tbody {
                    @for outcome in &report.outcomes {
                        @if let Some(metric) = outcome.main_metric() {
                            tr {
                                td { a href={ "#" (outcome.name) } { (outcome.name) } }
                                td { (metric.title()) }
                                td.number { (figure(outcome.weir().and_then(|row| row.summary(metric)).map(|s| s.median), metric)) }
                                @for name in rivals(report) {
                                    td.number {
                                        @if let Some(row) = outcome.rows.iter().find(|row| row.name == name) { (outcome.ratio(row, metric).text()) }
                                    }
                                }
                                td { @for verdict in &outcome.verdicts { (badge(verdict.held)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rivals(report: &Report) -> Vec<&str> {
    report.versions.iter().map(|(name, _)| name.as_str()).filter(|name| ["haproxy", "nginx", "envoy"].contains(name)).collect()
}

fn badge(held: Option<bool>) -> Markup {
    match held {
        Some(true) => html! { span.held title="held" { "✓" } },
        Some(false) => html! { span.broken title="broken" { "✗" } },
        None => html! { span.unknown title="cannot be said" { "?" } },
    }
}

fn figure(value: Option<f64>, metric: Metric) -> String {
    let digits = metric.digits();
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn section(outcome: &Outcome) -> Result<Markup> {
    let Some(main) = outcome.main_metric() else {
        return Ok(html! { section { h2 id=(outcome.name) { (outcome.name) } p { "Nothing was measured." } } });
    };
    let bars = plots::bars(outcome, main)?;
    let latencies = plots::latencies(outcome)?;
    let metrics = columns(outcome);
    Ok(html! {
        section {
            h2 id=(outcome.name) { (outcome.name) }
            p { (outcome.about) }
            @if let Some(plot) = bars { figure { (PreEscaped(plot)) } }
            @if let Some(plot) = latencies { figure { (PreEscaped(plot)) figcaption { "Latency by percentile: medians of the rounds, logarithmic." } } }
            table {
                thead { tr { th {} th { "weir / this" } @for metric in &metrics { th { (metric.title()) } } } }
                tbody {
                    @for row in &outcome.rows {
                        tr {
                            td { (row.label) }
                            td.number { (outcome.ratio(row, main).text()) }
                            @for metric in &metrics {
                                td.number { (cell(row, *metric)) }
                            }
                        }
                    }
                }
            }
            @for row in &outcome.rows {
                @if let Some(why) = &row.failed { p.broken { (row.label) " failed: " (why) } }
            }
            @if !outcome.verdicts.is_empty() {
                ul { @for verdict in &outcome.verdicts { li { (badge(verdict.held)) " " (verdict.promise) ": " strong { (verdict.found) } } } }
            }
            details {
                summary { "Configurations" }
                @for row in outcome.rows.iter().filter(|row| !row.config.is_empty()) { h4 { (row.label) } pre { (row.config) } }
            }
        }
    })
}

fn cell(row: &super::Row, metric: Metric) -> Markup {
    let Some(summary) = row.summary(metric) else { return html! { "-" } };
    let digits = metric.digits();
    html! {
        @if metric == Metric::Errors { (format!("{:.0}", summary.most)) }
        @else {
            (format!("{:.digits$}", summary.median))
            @if summary.least < summary.most {
                " " span.spread { (format!("{:.digits$}-{:.digits$}", summary.least, summary.most)) }
            }
        }
    }
}

fn method(report: &Report) -> Markup {
    html! {
        section {
            h2 { "How it was done" }
            p {
                "Every proxy has one worker on a core of its own; the load and the origin share the others. In each round everybody "
                "has a turn, and the order moves on from round to round. Figures are medians of the rounds, with the smallest and the "
                "largest; a ratio is the median of the rounds' own ratios, for what disturbs a round disturbs all. Where the middle "
                "half of those lies too far apart, or requests failed, no ratio is given. CPU is the scheduler's account of the "
                "proxy's processes, user and system. Memory is the resident set of all its processes; what several processes of one "
                "proxy share counts for each of them."
            }
            p {
                "Closed loops (wrk, h2load; our own for large bodies) ask again as soon as they are answered: they measure cost, and "
                "their latencies are those of a saturated proxy. At a fixed rate the moment of each request is settled beforehand and "
                "its latency counts from there, so that a stall is paid for in full."
            }
            p { "Each does the same work, as far as it can: a correlation ID made for each request, sent on and returned; least-request "
                "balancing; weir and Envoy normalise paths, keep the case of header names and count each route in histograms." }
            table { tbody {
                @for (what, value) in report.machine.iter().chain(&report.versions) { tr { td { (what) } td { (value) } } }
                @for name in &report.missing { tr { td { (name) } td.broken { "not installed, left out" } } }
            } }
            details { summary { "The origin's configuration" } pre { (report.origin) } }
        }
    }
}
