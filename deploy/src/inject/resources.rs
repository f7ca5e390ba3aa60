//! What weir's containers reserve and may use at most, as Kubernetes counts it.
//!
//! Kubernetes refuses a pod in which more is reserved than may be used. Where one of the two is said and the other is not, the
//! other gives way; where both are, it is a mistake.

use crate::manifest::Node;

/// Reserved where nobody says otherwise.
const CPU_REQUEST: &str = "10m";
const MEMORY_REQUEST: &str = "24Mi";
/// The most memory where nobody says otherwise. CPU has no limit: it would be felt as latency.
const MEMORY_LIMIT: &str = "256Mi";

/// What a container may use. What is not said (`None`) is as usual; an empty text has the container say nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU that is reserved; usually 10m.
    pub cpu_request: Option<String>,
    /// The most CPU; usually no limit.
    pub cpu_limit: Option<String>,
    /// Memory that is reserved; usually 24Mi.
    pub memory_request: Option<String>,
    /// The most memory; usually 256Mi.
    pub memory_limit: Option<String>,
}

/// What one of the two is reserved and limited to.
struct Bounds<'r> {
    request: Option<&'r str>,
    limit: Option<&'r str>,
}

impl<'r> Bounds<'r> {
    fn new(request: Option<&'r str>, limit: Option<&'r str>, usual: (&'static str, Option<&'static str>)) -> Self {
        let given = |text: &&str| !text.is_empty();
        let (usual_request, usual_limit) = (Some(usual.0), usual.1);
        let mut bounds = Self { request: request.or(usual_request).filter(given), limit: limit.or(usual_limit).filter(given) };
        match (bounds.request, bounds.limit) {
            (Some(least), Some(most)) if exceeds(least, most) && request.is_none() => bounds.request = Some(most),
            (Some(least), Some(most)) if exceeds(least, most) && limit.is_none() => bounds.limit = Some(least),
            _ => {}
        }
        bounds
    }
}

impl Resources {
    fn cpu(&self) -> Bounds<'_> {
        Bounds::new(self.cpu_request.as_deref(), self.cpu_limit.as_deref(), (CPU_REQUEST, None))
    }

    fn memory(&self) -> Bounds<'_> {
        Bounds::new(self.memory_request.as_deref(), self.memory_limit.as_deref(), (MEMORY_REQUEST, Some(MEMORY_LIMIT)))
    }

    /// What only whoever injects has said gives way where a pod has said the other of the two. `said` tells whether it has.
    pub(super) fn give_way(&mut self, said: impl Fn(&'static str) -> bool) {
        for (names, request, limit) in [
            (["cpu-request", "cpu-limit"], &mut self.cpu_request, &mut self.cpu_limit),
            (["memory-request", "memory-limit"], &mut self.memory_request, &mut self.memory_limit),
        ] {
            let (Some(least), Some(most)) = (request.as_deref(), limit.as_deref()) else { continue };
            match names.map(&said) {
                [true, false] if exceeds(least, most) => *limit = None,
                [false, true] if exceeds(least, most) => *request = None,
                _ => {}
            }
        }
    }

    /// Why Kubernetes would refuse a pod with them.
    pub fn mistakes(&self) -> Vec<String> {
        let of = |name: &str, bounds: Bounds<'_>| {
            let (request, limit) = (bounds.request?, bounds.limit?);
            exceeds(request, limit).then(|| {
                format!(
                    "`{name}-request` of {request} is more than `{name}-limit` of {limit}, and Kubernetes refuses such pods: lower \
                     the one or raise the other"
                )
            })
        };
        of("cpu", self.cpu()).into_iter().chain(of("memory", self.memory())).collect()
    }

    /// As a container says it; `None` if nothing is said.
    pub(super) fn node(&self) -> Option<Node> {
        let (cpu, memory) = (self.cpu(), self.memory());
        let pair = |cpu: Option<&str>, memory: Option<&str>| {
            let said = [("cpu", cpu), ("memory", memory)].into_iter();
            let said: Vec<_> = said.filter_map(|(key, said)| Some((key, Node::text(said?)))).collect();
            (!said.is_empty()).then(|| Node::map(said))
        };
        let limits = pair(cpu.limit, memory.limit).map(|limits| ("limits", limits));
        let requests = pair(cpu.request, memory.request).map(|requests| ("requests", requests));
        let said: Vec<_> = limits.into_iter().chain(requests).collect();
        (!said.is_empty()).then(|| Node::map(said))
    }
}

/// A quantity of Kubernetes. Nothing is nothing said.
///
/// # Errors
/// What it may be.
pub fn quantity(said: &str) -> Result<String, String> {
    match said.is_empty() || amount(said).is_some() {
        true => Ok(said.to_owned()),
        false => Err("write a quantity such as `10m`, `0.5`, `24Mi` or `1Gi`".to_owned()),
    }
}

/// Whether one quantity is more than another. What says nothing is no more and no less than anything.
fn exceeds(request: &str, limit: &str) -> bool {
    amount(request).zip(amount(limit)).is_some_and(|(request, limit)| request > limit)
}

/// How much a quantity is; `None` if it is none.
fn amount(said: &str) -> Option<f64> {
    let number = said.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &said[number.len()..];
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let is_number = |text: &str, dot: bool| {
        text.bytes().any(|c| c.is_ascii_digit())
            && text.bytes().all(|c| c.is_ascii_digit() || (dot && c == b'.'))
            && text.matches('.').count() < 2
    };
    if !(is_number(digits, true) && is_number(exponent.trim_start_matches(['+', '-']), false)) {
        return None;
    }
    let unit: f64 = match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Pi" => 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Ei" => 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(format!("{digits}e{exponent}").parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for right in ["", "1", "0.5", ".5", "100m", "24Mi", "1e3", "1E-3", "1e+3", "2E", "5Gi"] {
            assert!(quantity(right).is_ok(), "{right}");
        }
        for wrong in ["lots", "m", "1MB", "1 Gi", "1.2.3", "1e", "-", "0x10", "1mi"] {
            assert!(quantity(wrong).is_err(), "{wrong}");
        }
        for (less, more) in [("24Mi", "256Mi"), ("1M", "1Mi"), ("10m", "0.5"), ("900m", "1"), ("1Gi", "2e9"), ("5.5", "6")] {
            assert!(amount(less) < amount(more), "{less} {more}");
        }
        assert_eq!(amount("500m"), amount(".5"));
    }

    #[test]
    fn what_is_not_said_gives_way() {
        let memory = |request: Option<&str>, limit: Option<&str>| {
            let resources = Resources {
                memory_request: request.map(str::to_owned),
                memory_limit: limit.map(str::to_owned),
                ..Resources::default()
            };
            let bounds = resources.memory();
            let told = (bounds.request.map(str::to_owned), bounds.limit.map(str::to_owned));
            (told.0.unwrap_or_default(), told.1.unwrap_or_default(), resources.mistakes().len())
        };
        let told = |request: &str, limit: &str, mistakes| (request.to_owned(), limit.to_owned(), mistakes);
        assert_eq!(memory(None, None), told("24Mi", "256Mi", 0));
        assert_eq!(memory(None, Some("16Mi")), told("16Mi", "16Mi", 0));
        assert_eq!(memory(Some("1Gi"), None), told("1Gi", "1Gi", 0));
        assert_eq!(memory(Some("1Gi"), Some("")), told("1Gi", "", 0));
        assert_eq!(memory(Some(""), Some("16Mi")), told("", "16Mi", 0));
        assert_eq!(memory(Some("1Gi"), Some("512Mi")), told("1Gi", "512Mi", 1));
    }
}
