//! Golden files: YAML in, the compiled summary or the full list of mistakes out.
//!
//! `UPDATE_GOLDEN=1 cargo test -p weir-config --test golden` writes the files anew; read the difference before you commit.

use std::fmt::Write as _;
use std::path::Path;

use weir_config::Snapshot;
use weir_config::explain::listed;
use weir_config::snapshot::{Action, Speaks};

fn summary(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for listener in &snapshot.listeners {
        let _ = write!(out, "listener {} {} {:?}", listener.name, listed(&listener.addresses), listener.direction);
        match listener.speaks {
            Speaks::Http => {}
            Speaks::Tcp(cluster) => {
                let _ = write!(out, " tcp -> {}", snapshot.cluster(cluster).name);
            }
            Speaks::Tls => out.push_str(" tls"),
            Speaks::Original => out.push_str(" original destination"),
        }
        if let Some(rule) = listener.app_rule {
            let _ = write!(out, " else -> rule {}", rule.0);
        }
        for policy in listener.policies.iter().map(|id| snapshot.policy(*id)) {
            let _ = write!(out, " {:?} {}{}", policy.action, policy.name, if policy.dry_run { " (dry run)" } else { "" });
        }
        out.push('\n');
    }
    for (id, rule) in snapshot.rules.iter().enumerate() {
        let _ = write!(out, "rule {id} {}/{}: ", snapshot.route(rule.route).name, rule.name);
        match &rule.action {
            Action::Forward(split) => {
                for (place, backend) in split.backends.iter().enumerate() {
                    let _ = write!(out, "{}={} ", snapshot.cluster(backend.cluster).name, split.weights.weight(place));
                }
            }
            Action::Redirect(redirect) => {
                let _ = write!(out, "redirect {}", redirect.status.as_u16());
            }
            Action::Respond(respond) => {
                let _ = write!(out, "respond {} {} bytes", respond.status.as_u16(), respond.body.len());
            }
        }
        let trimmed = out.trim_end().len();
        out.truncate(trimmed);
        out.push('\n');
    }
    for cluster in &snapshot.clusters {
        let _ = writeln!(out, "cluster {} {:?} {} endpoints", cluster.name, cluster.protocol, cluster.endpoints.len());
    }
    out
}

#[test]
fn golden_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 4, "the golden files are missing");
    let mut wrong = Vec::new();
    for yaml in names {
        let text = std::fs::read_to_string(&yaml).unwrap();
        let file = yaml.file_name().unwrap().to_str().unwrap();
        let got = match weir_config::load(&text) {
            Ok((_, snapshot)) => summary(&snapshot),
            Err(found) => found.iter().fold(String::new(), |all, mistake| all + &mistake.render(file) + "\n"),
        };
        let expected = yaml.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &got).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != got {
            wrong.push(format!("--- {file}\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "these differ from their .expected files:\n{}", wrong.join("\n"));
}
