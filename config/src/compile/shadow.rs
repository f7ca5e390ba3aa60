//! Rules that can never win, because rules above them take every request they match.

use crate::error::{Diagnostics, Path};
use crate::snapshot::{Route, Rule, RuleId};
use crate::table::RuleTable;

pub(super) fn check(routes: &[Route], rules: &[Rule], found: &mut Diagnostics) {
    let root = Path::ROOT;
    let all = root.key("routes");
    for (route_place, route) in routes.iter().enumerate() {
        let Some(first) = route.table.entries().first().map(|entry| entry.rule.0) else { continue };
        for (rule, above) in shadowed(&route.table) {
            let (name, above) = (&rules[rule.index()].name, &rules[above.index()].name);
            let route_path = all.index(route_place);
            let rules_path = route_path.key("rules");
            let place = (rule.0 - first) as usize;
            let message = format!("the rule `{name}` can never be reached: the rule `{above}` above it takes all it matches");
            found.error(&rules_path.index(place), message).hint = Some(format!("move it above `{above}`, or remove it"));
        }
    }
}

/// Rules whose every match is covered by a match of a rule above, each with such a rule.
fn shadowed(table: &RuleTable) -> Vec<(RuleId, RuleId)> {
    let entries = table.entries();
    let mut covered: Vec<Option<RuleId>> = Vec::with_capacity(entries.len());
    for entry in entries {
        let above = table.possible_covers(entry).into_iter().map(|id| &entries[id as usize]);
        let by = above.take_while(|other| other.rule < entry.rule).find(|other| other.matches.covers(&entry.matches));
        covered.push(by.map(|other| other.rule));
    }
    let mut shadowed = Vec::new();
    let mut at = 0;
    while at < entries.len() {
        let rule = entries[at].rule;
        let end = at + entries[at..].iter().take_while(|entry| entry.rule == rule).count();
        if covered[at..end].iter().all(Option::is_some)
            && let Some(by) = covered[at]
        {
            shadowed.push((rule, by));
        }
        at = end;
    }
    shadowed
}
