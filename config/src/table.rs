//! Finding the route of a host and the rule of a request, in a time that hardly depends on how many there are.
//!
//! Semantics are those of a list: the most specific host, then the first match in order. The structures here only skip
//! what cannot match: entries are filed under the most selective thing they demand (a path, a path prefix, a header
//! value), candidates are visited in their original order, and each is checked in full. `find_linear` is the same
//! answer from a plain loop; tests hold the two together.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::header::HeaderName;
use regex::RegexSet;

use crate::decide::Facts;
use crate::matcher::{CompiledMatch, PathTest, ValueKind};
use crate::snapshot::{RouteId, RuleId};

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// The routes of one listener by host.
#[derive(Debug, Default, Clone)]
pub struct HostTable {
    exact: Map<RouteId>,
    /// By suffix with its leading dot: `.checkout.local`.
    wildcard: Map<RouteId>,
    any: Option<RouteId>,
}

/// A host pattern of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    Exact(Box<str>),
    Wildcard(Box<str>),
    Any,
}

impl HostPattern {
    /// Whether a host in its normal form fits.
    pub(crate) fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *host,
            // One or more labels, and none of them empty at the front.
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }
}

impl HostTable {
    /// Files a route under a host; gives the route that has it already.
    pub(crate) fn insert(&mut self, pattern: HostPattern, route: RouteId) -> Option<RouteId> {
        let taken = match &pattern {
            HostPattern::Exact(host) => self.exact.get(host),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        };
        if let Some(taken) = taken {
            return Some(*taken);
        }
        match pattern {
            HostPattern::Exact(host) => self.exact.insert(host, route),
            HostPattern::Wildcard(suffix) => self.wildcard.insert(suffix, route),
            HostPattern::Any => self.any.replace(route),
        }
    }

    /// The route with the most specific host for `host`, which is in its normal form.
    pub fn find(&self, host: &str) -> Option<RouteId> {
        if let Some(route) = self.exact.get(host) {
            return Some(*route);
        }
        if !self.wildcard.is_empty() {
            // Left to right: the longest suffix comes first.
            for (dot, _) in host.match_indices('.').filter(|(dot, _)| *dot > 0) {
                if let Some(route) = self.wildcard.get(&host[dot..]) {
                    return Some(*route);
                }
            }
        }
        self.any
    }
}

/// The matches of one route, in order, and what finds them.
#[derive(Debug, Clone, Default)]
pub struct RuleTable {
    entries: Box<[Entry]>,
    exact: Map<Vec<u32>>,
    segments: Map<Vec<u32>>,
    characters: Map<Vec<u32>>,
    /// The lengths of the keys of `characters`, ascending.
    character_lengths: Box<[usize]>,
    regexes: Box<[u32]>,
    regex_set: Option<RegexSet>,
    by_header: Vec<HeaderIndex>,
    rest: Box<[u32]>,
}

/// One match of one rule. A rule without `match` has one entry that always holds.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The rule the match belongs to.
    pub rule: RuleId,
    /// The match.
    pub matches: CompiledMatch,
}

#[derive(Debug, Clone)]
struct HeaderIndex {
    name: HeaderName,
    values: HashMap<Box<[u8]>, Vec<u32>, RandomState>,
}

/// More names than this and the remaining entries are checked one by one.
const MAX_HEADER_INDEXES: usize = 8;
/// Below this many, checking one by one is cheaper than the automaton of them all.
const MIN_REGEX_SET: usize = 8;

impl RuleTable {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        let mut table = Self::default();
        let mut regexes = Vec::new();
        let mut rest = Vec::new();
        for (id, entry) in (0_u32..).zip(&entries) {
            match &entry.matches.path {
                Some(PathTest::Exact(path)) => table.exact.entry(path.clone()).or_default().push(id),
                Some(PathTest::Segments(path)) => table.segments.entry(path.clone()).or_default().push(id),
                Some(PathTest::Characters(path)) => table.characters.entry(path.clone()).or_default().push(id),
                Some(PathTest::Regex(_)) => regexes.push(id),
                None => table.file_without_path(id, &entry.matches, &mut rest),
            }
        }
        let mut lengths: Vec<usize> = table.characters.keys().map(|key| key.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        table.character_lengths = lengths.into();
        if regexes.len() >= MIN_REGEX_SET {
            let patterns = regexes.iter().filter_map(|id| match &entries[*id as usize].matches.path {
                Some(PathTest::Regex(regex)) => Some(regex.as_str()),
                _ => None,
            });
            // Too large an automaton: one by one it is.
            table.regex_set = RegexSet::new(patterns).ok();
        }
        table.regexes = regexes.into();
        table.rest = rest.into();
        table.entries = entries.into();
        table
    }

    fn file_without_path(&mut self, id: u32, matches: &CompiledMatch, rest: &mut Vec<u32>) {
        let exact = matches.headers.iter().find_map(|(name, test)| match &test.kind {
            ValueKind::Exact(value) if !test.not => Some((name, value)),
            _ => None,
        });
        let Some((name, value)) = exact else {
            rest.push(id);
            return;
        };
        let known = self.by_header.iter().position(|index| index.name == *name);
        let place = match known {
            Some(place) => place,
            None if self.by_header.len() < MAX_HEADER_INDEXES => {
                self.by_header.push(HeaderIndex { name: name.clone(), values: HashMap::default() });
                self.by_header.len() - 1
            }
            None => {
                rest.push(id);
                return;
            }
        };
        self.by_header[place].values.entry(value.clone()).or_default().push(id);
    }

    /// The first match in order that holds.
    pub fn find(&self, facts: &Facts<'_>) -> Option<&Entry> {
        let by_regex: Vec<u32>;
        let mut candidates = Candidates::default();
        self.collect(facts, &mut candidates);
        match &self.regex_set {
            Some(set) => {
                by_regex = set.matches(facts.path).iter().map(|place| self.regexes[place]).collect();
                candidates.push(&by_regex);
            }
            None => candidates.push(&self.regexes),
        }
        while let Some(id) = candidates.next() {
            let entry = &self.entries[id as usize];
            if entry.matches.holds(facts) {
                return Some(entry);
            }
        }
        None
    }

    /// The same answer from a plain loop: the definition that `find` is tested against.
    pub fn find_linear(&self, facts: &Facts<'_>) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.matches.holds(facts))
    }

    /// All matches, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Lists of entries whose path condition or indexed header holds. A path list needs no second look at its path,
    /// but is given one: `holds` is the only judge.
    fn collect<'t>(&'t self, facts: &Facts<'_>, candidates: &mut Candidates<'t>) {
        candidates.push(&self.rest);
        self.collect_by_path(facts.path, candidates);
        for index in &self.by_header {
            let mut values = facts.headers.get_all(&index.name).iter();
            let (Some(first), None) = (values.next(), values.next()) else {
                // Several fields are joined before they are compared; rare enough to look at everything.
                if facts.headers.contains_key(&index.name) {
                    index.values.values().for_each(|list| candidates.push(list));
                }
                continue;
            };
            if let Some(list) = index.values.get(first.as_bytes()) {
                candidates.push(list);
            }
        }
    }

    fn collect_by_path<'t>(&'t self, path: &str, candidates: &mut Candidates<'t>) {
        if let Some(list) = self.exact.get(path) {
            candidates.push(list);
        }
        if !self.segments.is_empty() {
            if let Some(list) = self.segments.get("/") {
                candidates.push(list);
            }
            if path != "/"
                && let Some(list) = self.segments.get(path)
            {
                candidates.push(list);
            }
            for slash in memchr::memchr_iter(b'/', path.as_bytes()).filter(|slash| *slash > 0) {
                if let Some(list) = self.segments.get(&path[..slash]) {
                    candidates.push(list);
                }
            }
        }
        for length in self.character_lengths.iter().take_while(|length| **length <= path.len()) {
            if let Some(list) = path.get(..*length).and_then(|prefix| self.characters.get(prefix)) {
                candidates.push(list);
            }
        }
    }

    /// Entries that stand before `id` and might cover it: everything whose path condition holds for the entry's own
    /// path text, and everything without a path.
    pub(crate) fn possible_covers(&self, entry: &Entry) -> Vec<u32> {
        let mut candidates = Candidates::default();
        candidates.push(&self.rest);
        for index in &self.by_header {
            for (name, test) in &entry.matches.headers {
                if let (true, ValueKind::Exact(value)) = (*name == index.name, &test.kind)
                    && let Some(list) = index.values.get(value)
                {
                    candidates.push(list);
                }
            }
        }
        match &entry.matches.path {
            Some(PathTest::Exact(path) | PathTest::Segments(path) | PathTest::Characters(path)) => {
                self.collect_by_path(path, &mut candidates);
            }
            Some(PathTest::Regex(_)) | None => {}
        }
        candidates.push(&self.regexes);
        std::iter::from_fn(|| candidates.next()).collect()
    }
}

/// Sorted lists of entry ids, visited in one ascending order.
#[derive(Default)]
struct Candidates<'t> {
    few: [&'t [u32]; 6],
    used: usize,
    more: Vec<&'t [u32]>,
}

impl<'t> Candidates<'t> {
    fn push(&mut self, list: &'t [u32]) {
        if list.is_empty() {
            return;
        }
        if self.used < self.few.len() {
            self.few[self.used] = list;
            self.used += 1;
        } else {
            self.more.push(list);
        }
    }

    fn next(&mut self) -> Option<u32> {
        let lists = self.few[..self.used].iter_mut().chain(&mut self.more);
        let lowest = lists.filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
        let id = lowest[0];
        *lowest = &lowest[1..];
        Some(id)
    }
}
