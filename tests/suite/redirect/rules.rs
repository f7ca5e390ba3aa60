//! The rules as the kernel has them: the same however often they are installed, and gone when they are removed.

use std::os::unix::fs::PermissionsExt;

use weir_tests::peers::Peer;
use weir_tests::pod::Pod;
use weir_tests::{Result, Trial, holds, same, test_with, weir};

pub fn trials() -> Vec<Trial> {
    let nft = [Peer::Namespaces, Peer::Program("nft")];
    let iptables = [Peer::Namespaces, Peer::Program("nft"), Peer::Program("iptables")];
    let mut trials = vec![
        test_with("redirect::rules::what_is_printed_is_what_is_installed", &nft, printed),
        test_with("redirect::rules::another_backend_takes_the_place_of_the_first", &iptables, replaced),
        test_with("redirect::rules::many_at_once_take_turns", &iptables, at_once),
        test_with("redirect::rules::thousands_of_ports_and_networks", &nft, thousands),
        test_with("redirect::rules::whatever_changed_is_found", &iptables, changed),
        test_with("redirect::rules::a_family_that_fails_leaves_all_as_it_was", &iptables, half),
        test_with("redirect::rules::without_the_right_nothing_changes_and_it_is_said", &nft, unprivileged),
    ];
    for backend in BACKENDS {
        let name = format!("redirect::rules::{}_installed_twice_and_removed", backend.name.replace('-', "_"));
        trials.push(test_with(&name, &iptables, move || installed_twice(backend)));
    }
    trials
}

#[derive(Clone, Copy)]
struct Backend {
    name: &'static str,
    /// Shows all rules.
    show: &'static str,
    /// Rules of somebody else.
    others: &'static str,
}

const BACKENDS: [Backend; 3] = [
    Backend {
        name: "nftables",
        show: "nft list ruleset",
        others: "nft add table inet other; nft 'add chain inet other c { type filter hook input priority 0; }'
                 nft add rule inet other c tcp dport 9 counter drop",
    },
    Backend {
        name: "iptables-nft",
        show: "(iptables-nft-save; ip6tables-nft-save) | grep -v '^#'",
        others: "iptables-nft -t nat -A OUTPUT -p tcp --dport 9 -j RETURN; iptables-nft -t nat -N MINE
                 iptables-nft -t nat -A PREROUTING -j MINE; ip6tables-nft -t nat -A PREROUTING -j RETURN",
    },
    Backend {
        name: "iptables-legacy",
        show: "(iptables-legacy-save; ip6tables-legacy-save) | grep -v '^#'",
        others: "iptables-legacy -t nat -A OUTPUT -p tcp --dport 9 -j RETURN; iptables-legacy -t nat -N MINE
                 iptables-legacy -t nat -A PREROUTING -j MINE; ip6tables-legacy -t nat -A PREROUTING -j RETURN",
    },
];

/// Options of every kind.
const OPTIONS: [&str; 4] = [
    "",
    "--ipv6 off",
    "--uid 2000 --gid none --mark 0x539 --exclude-interfaces eth9,net1 --include-inbound-ports 22,8080,9000-9100 \
     --exclude-inbound-cidrs 10.1.0.0/16,fd01::/16 --include-outbound-cidrs 10.0.0.0/8,fd00::/9,192.168.1.1 \
     --include-outbound-ports 80,443 --exclude-outbound-ports 5000-5010 --exclude-outbound-cidrs 10.9.9.9,10.64.0.0/11 \
     --exclude-uids 7,8 --exclude-gids 9",
    "--no-inbound --outbound-port 4140",
];

/// `weir redirect`.
fn redirect() -> String {
    format!("{} redirect", weir::binary().display())
}

/// What a script says that fails.
fn refused(pod: &Pod, script: &str) -> Result<String> {
    match pod.run(script) {
        Ok(said) => Err(format!("`{script}` succeeds: {said}").into()),
        Err(error) => Ok(error.to_string()),
    }
}

async fn installed_twice(backend: Backend) -> Result {
    let (redirect, pod, name) = (redirect(), Pod::new()?, backend.name);
    pod.run(backend.others)?;
    let before = pod.run(backend.show)?;
    let mut seen = Vec::new();
    for options in OPTIONS {
        let said = pod.run(&format!("{redirect} install --backend {name} {options}"))?;
        holds!(said.contains(&format!("installed by {name};")), "{said}");
        let first = pod.run(backend.show)?;
        holds!(!seen.contains(&first), "these options make no difference: {options}");
        pod.run(&format!("{redirect} check {options}"))?;
        pod.run(&format!("{redirect} install --backend {name} {options}"))?;
        same!(pod.run(backend.show)?, first);
        pod.run(&format!("{redirect} check {options}"))?;
        seen.push(first);
    }
    same!(pod.run(&format!("{redirect} remove"))?, format!("removed: {name}\n"));
    same!(pod.run(backend.show)?, before);
    same!(pod.run(&format!("{redirect} remove"))?, "there were no rules\n");
    Ok(())
}

async fn printed() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    for options in OPTIONS {
        pod.run(&format!("{redirect} install --backend nftables {options}"))?;
        let installed = pod.run("nft list ruleset")?;
        pod.run(&format!("{redirect} remove; {redirect} print {options} | nft -f -"))?;
        same!(pod.run("nft list ruleset")?, installed);
        // Ranges are written otherwise by `nft`, and `check` knows what `install` writes.
        if !options.contains("9000-9100") {
            pod.run(&format!("{redirect} check {options}"))?;
        }
        // Loaded again it takes the place of what is there.
        pod.run(&format!("{redirect} print {options} | nft -f -"))?;
        same!(pod.run("nft list ruleset")?, installed);
    }
    for (family, name) in [(4, "iptables"), (6, "ip6tables")] {
        pod.run(&format!("{redirect} install --backend iptables-nft"))?;
        let installed = pod.run(&format!("{name}-nft-save | grep '^-A' | sort"))?;
        let print = format!("{redirect} print --backend iptables-nft | sed -n '/# {name}-/,/COMMIT/p'");
        pod.run(&format!("{redirect} remove; {print} | {name}-nft-restore --noflush"))?;
        same!(pod.run(&format!("{name}-nft-save | grep '^-A' | sort"))?, installed, "IPv{family}");
    }
    Ok(())
}

async fn replaced() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    for backend in ["iptables-nft", "nftables", "iptables-legacy", "iptables-nft", "nftables"] {
        pod.run(&format!("{redirect} install --backend {backend} --ipv6 off"))?;
        let said = pod.run(&format!("{redirect} check --ipv6 off"))?;
        holds!(said.contains(&format!("by {backend},")), "{said}");
        let all = pod.run("nft list ruleset 2>/dev/null; iptables-legacy-save")?;
        let count = all.matches("15001").count();
        holds!(count == 1, "{count} rules lead to the outbound port after {backend}:\n{all}");
    }
    same!(pod.run(&format!("{redirect} remove"))?, "removed: nftables\n");
    Ok(())
}

/// More rules than a netlink socket has room for by itself, forth and back.
async fn thousands() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    let ports: Vec<String> = (1..4000).step_by(2).map(|port| port.to_string()).collect();
    let networks: Vec<String> = (0..1000).map(|number| format!("52.{}.{}.0/24", number / 200, number % 200)).collect();
    let options = format!("--include-inbound-ports {} --exclude-outbound-cidrs {}", ports.join(","), networks.join(","));
    pod.run(&format!("{redirect} install --backend nftables {options}"))?;
    let installed = pod.run("nft list ruleset")?;
    holds!(installed.contains("dport 3999") && installed.contains("52.4.199.0/24"), "{}", installed.len());
    pod.run(&format!("{redirect} check {options}"))?;
    // All differ, and not all are told.
    let others = options.replace("-ports 1,", "-ports ");
    let refused = refused(&pod, &format!("{redirect} check {others}"))?;
    holds!(refused.lines().count() < 30 && refused.contains(" more"), "{refused}");
    pod.run(&format!("{redirect} remove"))?;
    same!(pod.run("nft list ruleset")?, "");
    Ok(())
}

/// Two of each backend at the same moment: all succeed, and the rules of the last are there, once.
async fn at_once() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    for _ in 0..5 {
        std::thread::scope(|scope| -> Result {
            let install = |backend: Backend| {
                let command = format!("{redirect} install --backend {} --ipv6 off", backend.name);
                let pod = &pod;
                scope.spawn(move || pod.run(&command).map_err(|error| error.to_string()))
            };
            let all: Vec<_> = BACKENDS.into_iter().chain(BACKENDS).map(install).collect();
            for one in all {
                one.join().map_err(|_| "a thread failed")??;
            }
            Ok(())
        })?;
        let all = pod.run("nft list ruleset 2>/dev/null; iptables-legacy-save")?;
        let count = all.matches("15001").count();
        holds!(count == 1, "{count} rules lead to the outbound port:\n{all}");
    }
    Ok(())
}

async fn changed() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    let check = format!("{redirect} check 2>&1");
    let none = refused(&pod, &check)?;
    holds!(none.contains("no rules of weir are installed"), "{none}");
    let last = "nft -a list chain inet weir output | grep 'what the app calls' | sed 's/.*handle //'";
    let comment = "comment '\"what the app calls\"'";
    // All as it is but for this, and with the rules as they were.
    let loaded = |change: &str| {
        format!("rules=$(nft list table inet weir | sed '{change}'); nft delete table inet weir; echo \"$rules\" | nft -f -")
    };
    pod.run(&format!("{redirect} install --backend nftables; {}; {redirect} check", loaded("")))?;
    for change in [
        format!("nft delete rule inet weir output handle $({last})"),
        "nft insert rule inet weir output tcp dport 9 redirect to :9".to_owned(),
        "nft add rule inet weir output tcp dport 9 return".to_owned(),
        "nft flush chain inet weir prerouting".to_owned(),
        loaded("/hook output/d"),
        loaded("/hook output/s/priority [^;]*/priority 7/"),
        "nft add table inet weir '{ flags dormant; }'".to_owned(),
        "nft add chain inet weir output '{ policy drop; }'".to_owned(),
        "iptables-nft -t nat -N WEIR_OUTPUT".to_owned(),
        "nft add chain inet weir more; nft add rule inet weir more return".to_owned(),
        format!("nft replace rule inet weir output handle $({last}) meta l4proto tcp redirect to :15002 {comment}"),
    ] {
        pod.run(&format!("{redirect} install --backend nftables"))?;
        pod.run(&check)?;
        pod.run(&change)?;
        let found = refused(&pod, &check)?;
        holds!(found.contains("puts them right"), "{change}: {found}");
    }
    Ok(())
}

/// IPv6 is refused when IPv4 is done already.
async fn half() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    let dir = tempfile::tempdir()?;
    let fake = dir.path().join("ip6tables-nft-restore");
    std::fs::write(&fake, "#!/bin/sh\n[ \"$1\" = -V ] && exit 0\necho 'no such table' >&2\nexit 1\n")?;
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755))?;
    let path = dir.path().display();
    let failed = refused(&pod, &format!("PATH={path}:$PATH {redirect} install --backend iptables-nft --ipv6 on 2>&1"))?;
    holds!(failed.contains("no such table"), "{failed}");
    let show = "(iptables-nft-save; ip6tables-nft-save) | grep -v '^#'";
    let left = pod.run(show)?;
    holds!(!left.contains("WEIR"), "{left}");
    // Where rules were, they are put back.
    let (old, new) = ("--include-inbound-ports 80,443", "--exclude-outbound-ports 25");
    pod.run(&format!("{redirect} install --backend iptables-nft --ipv6 on {old}"))?;
    let before = pod.run(show)?;
    refused(&pod, &format!("PATH={path}:$PATH {redirect} install --backend iptables-nft --ipv6 on {new} 2>&1"))?;
    same!(pod.run(show)?, before);
    pod.run(&format!("{redirect} check --ipv6 on {old}"))?;
    pod.run(&format!("{redirect} install --backend iptables-nft --ipv6 on {new}"))?;
    holds!(pod.run(show)? != before, "nothing was refused but for the fake");
    Ok(())
}

async fn unprivileged() -> Result {
    let (redirect, pod) = (redirect(), Pod::new()?);
    let before = pod.run("nft list ruleset")?;
    let failed = refused(&pod, &format!("setpriv --reuid 1000 --regid 1000 --clear-groups {redirect} install 2>&1"))?;
    holds!(failed.contains("CAP_NET_ADMIN"), "{failed}");
    same!(pod.run("nft list ruleset")?, before);
    Ok(())
}
