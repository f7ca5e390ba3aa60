//! Manifests of every shape, through `weir inject` and back.

use std::path::{Path, PathBuf};
use std::process::Command;

use weir_tests::peers::Peer;
use weir_tests::{Result, Trial, holds, same, test, test_with};

use super::weir;

pub(super) fn trials() -> Vec<Trial> {
    let schemas = ["kubernetes_validate", "yaml"].map(Peer::Python);
    vec![
        test_with("deploy::inject::what_comes_out_is_valid_and_means_what_it_meant", &schemas, shapes),
        test("deploy::inject::who_gets_a_sidecar_and_who_does_not", fates),
        test("deploy::inject::annotations_say_how", annotations),
        test("deploy::inject::what_is_wrong_is_said_and_nothing_printed", mistakes),
        test("deploy::inject::settings_change_and_nothing_is_left_behind", changes),
        test("deploy::inject::annotations_come_before_options", both),
        test("deploy::inject::probes_find_back_to_their_container", probes),
    ]
}

fn manifests() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

fn judge(arguments: &[&str]) -> Result<String> {
    let peer = format!("{}/peers/manifest_peer.py", env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("python3").arg(peer).args(arguments).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(said) } else { Err(format!("{arguments:?}: {said}").into()) }
}

async fn shapes() -> Result {
    let files = manifests()?;
    holds!(files.len() >= 25, "{} manifests", files.len());
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (place, options) in
        [&[][..], &["--classic", "--workload-api"], &["--config-map", "x", "--keep-probes"]].iter().enumerate()
    {
        let (mut written, mut pairs) = (Vec::new(), vec!["same".to_owned()]);
        for file in &files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let original = file.display().to_string();
            let once = weir(&[&["inject", &original][..], options].concat(), "")?;
            holds!(once.ok, "{original}: {}", once.err);
            let twice = weir(&[&["inject"][..], options].concat(), &once.out)?;
            same!(twice.out, once.out, "{original}: twice is not once");
            let out = weir(&["uninject"], &once.out)?;
            let (injected, removed) = (path(&format!("{place}-{name}-in.yaml")), path(&format!("{place}-{name}-out.yaml")));
            std::fs::write(&injected, &once.out)?;
            std::fs::write(&removed, &out.out)?;
            pairs.extend([original, removed]);
            written.push(injected);
        }
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        judge(&pairs)?;
        for version in ["1.30", "1.37"] {
            let arguments: Vec<&str> = ["valid", version].into_iter().chain(written.iter().map(String::as_str)).collect();
            let said = judge(&arguments)?;
            let count: usize = said.split(' ').next().unwrap_or_default().parse()?;
            holds!(count > 90, "{count} objects");
        }
    }
    Ok(())
}

async fn fates() -> Result {
    let (mut injected, mut left) = (0, 0);
    for file in manifests()? {
        let said = weir(&["inject", &file.display().to_string()], "")?;
        injected += said.err.matches(": injected\n").count();
        left += said.err.matches(": left alone: ").count();
    }
    holds!(injected >= 50 && left >= 9, "{injected} {left}");
    let pod = |more: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: a }}\nspec: {{ containers: [{{ name: a, image: b }}], {more} }}\n")
    };
    for (more, why) in [
        ("hostNetwork: true", "hostNetwork"),
        ("os: { name: windows }", "Windows"),
        ("initContainers: [{ name: istio-proxy, image: b }]", "sidecar of Istio"),
        ("initContainers: [{ name: weir, image: b }]", "has not put there"),
    ] {
        let said = weir(&["inject"], &pod(more))?;
        holds!(said.ok && said.err.contains("pod/a: left alone") && said.err.contains(why), "{more}: {}", said.err);
        same!(said.out, weir(&["uninject"], &pod(more))?.out, "{more}");
    }
    let said = weir(&["inject"], "apiVersion: example.com/v1\nkind: Deployment\nspec: { template: 1 }\n")?;
    holds!(said.ok && said.err.contains("no pods here"), "{}", said.err);
    // Items of a list of their kind need not say what they are.
    let items = "[{ metadata: { name: a }, spec: { template: { spec: { containers: [{ name: a }] } } } }]";
    let said = weir(&["inject"], &format!("apiVersion: apps/v1\nkind: DeploymentList\nitems: {items}\n"))?;
    holds!(said.ok && said.err.contains("deployment/a: injected"), "{}", said.err);
    // As tools print several objects of JSON.
    let object = |name: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"a"}}]}}}}"#)
    };
    let said = weir(&["inject"], &format!("{}\n{}\n", object("x"), object("y")))?;
    holds!(said.ok && said.err == "pod/x: injected\npod/y: injected\n", "{}", said.err);
    same!(weir(&["inject"], &said.out)?.out, said.out);
    let said = weir(
        &["inject", "--classic"],
        "apiVersion: batch/v1\nkind: Job\nmetadata: { name: j }\nspec: { template: { spec: { containers: [{ name: a }] } } }\n",
    )?;
    holds!(said.err.contains("does not end with the job"), "{}", said.err);
    Ok(())
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: a
  annotations:
    ANNOTATIONS
spec:
  terminationGracePeriodSeconds: 90
  containers:
  - name: app
    image: shop/app:1
    ports:
    - { name: http, containerPort: 8080 }
    readinessProbe:
      httpGet: { path: /ready, port: http }
";

fn pod(annotations: &[&str]) -> String {
    POD.replace("ANNOTATIONS", &annotations.join("\n    "))
}

async fn annotations() -> Result {
    for (annotations, wanted) in [
        (&["weir.proxy/log: debug"][..], "value: debug"),
        (&["sidecar.istio.io/logLevel: warning"], "value: warn"),
        (&["config.linkerd.io/proxy-log-level: warn,linkerd=info"], "value: warn"),
        (&["weir.proxy/image: weir:9"], "image: \"weir:9\""),
        (&["traffic.sidecar.istio.io/excludeOutboundPorts: \"9092,5432\""], "--exclude-outbound-ports=9092,5432"),
        (&["config.linkerd.io/skip-outbound-ports: 4567-4568"], "--exclude-outbound-ports=4567-4568"),
        (&["appmesh.k8s.aws/ports: \"8080,9090\""], "--include-inbound-ports=8080,9090"),
        (&["appmesh.k8s.aws/egressIgnoredIPs: 10.9.8.7"], "--exclude-outbound-cidrs=10.9.8.7/32"),
        (&["appmesh.k8s.aws/cpuRequest: 50m"], "cpu: \"50m\""),
        (&["weir.proxy/cpu-request: 1", "sidecar.istio.io/proxyCPU: 2"], "cpu: \"1\""),
        (&["weir.proxy/config-map: routes"], "configMap:\n      name: routes"),
        (
            &[
                "weir.proxy/config: '{probes: {listen: \"0.0.0.0:15020\"}, listeners: [{name: o, listen: \"127.0.0.1:15001\", direction: outbound, original_destination: true}, {name: i, listen: \"0.0.0.0:15006\", direction: inbound, original_destination: true}]}'",
            ],
            "metadata.annotations['weir.proxy/config']",
        ),
        (&["weir.proxy/identity-secret: tls"], "secretName: tls"),
        (&["weir.proxy/workload-api: csi.spiffe.io"], "driver: csi.spiffe.io"),
        (&["weir.proxy/native: \"false\""], "- /weir\n          - wait\n"),
        (&["weir.proxy/native: \"false\""], "kubectl.kubernetes.io/default-container: app"),
        (&["weir.proxy/native: \"false\"", "weir.proxy/wait-before-exit: 7"], "--wait=7s"),
        (&["weir.proxy/native: \"true\""], "--on-sigterm=leave"),
        (&["weir.proxy/native: \"false\""], "--on-sigterm=wait"),
        (&["weir.proxy/native: \"true\""], "--grace-period=90s"),
        (&["weir.proxy/rewrite-probes: \"false\""], "path: /ready, port: http"),
        (&["weir.proxy/rewrite-probes: \"true\""], "path: /app/app/readinessProbe"),
        (&["config.linkerd.io/opaque-ports: 9000,1521"], "ports: { \"9000\": tcp, \"1521\": tcp }"),
    ] {
        let said = weir(&["inject"], &pod(annotations))?;
        holds!(said.ok && said.out.contains(wanted), "{annotations:?}: `{wanted}` is not in\n{}{}", said.out, said.err);
    }
    let said = weir(&["inject"], &pod(&[]).replace("containerPort: 8080", "containerPort: 15020"))?;
    holds!(said.ok && said.err.contains("has the port 15020, which the sidecar takes for its probes"), "{}", said.err);
    holds!(!weir(&["inject"], &pod(&[]))?.err.contains("has the port"));
    let said = weir(&["inject"], &pod(&["weir.proxy/redirect: \"false\"", "weir.proxy/config-map: a"]))?;
    holds!(said.ok && !said.out.contains("weir-redirect") && !said.out.contains("NET_ADMIN"), "{}", said.out);
    Ok(())
}

async fn mistakes() -> Result {
    for (annotations, wanted) in [
        (&["weir.proxy/exclude-outbound-ports: 99999"][..], &["pod/a", "weir.proxy/exclude-outbound-ports", "65535"][..]),
        (&["weir.proxy/native: maybe"], &["weir.proxy/native", "`true` or `false`"]),
        (&["weir.proxy/pull-policy: Sometimes"], &["`IfNotPresent`"]),
        (&["weir.proxy/inject: perhaps"], &["neither `true` nor `false`"]),
        (&["weir.proxy/exclude-outbound-cidrs: ten"], &["not an address or range"]),
        (&["weir.proxy/redirect: \"false\""], &["weir.proxy/config-map"]),
        (&["weir.proxy/config: 'foo: 1'"], &["weir.proxy/config:1:1", "foo"]),
        (
            &["weir.proxy/config: '{listeners: [{name: a, listen: \"127.0.0.1:1\", direction: outbound}]}'"],
            &[
                "weir.proxy/config",
                "add `probes:",
                "outbound connections are handed to port 15001, and no listener takes them",
                "inbound connections are handed to port 15006",
                "`weir.proxy/redirect: \"false\"`",
            ],
        ),
        (
            &[
                "weir.proxy/config: '{admin: {listen: \"off\"}, listeners: [{name: a, listen: \"127.0.0.1:1\", direction: outbound}]}'",
            ],
            &["the hook by which weir leaves asks 127.0.0.1:15000"],
        ),
        (&["weir.proxy/log: loud"], &["weir.proxy/log", "`debug`"]),
        (&["weir.proxy/cpu-request: lots"], &["weir.proxy/cpu-request", "`10m`"]),
        (&["weir.proxy/config-map: A B"], &["weir.proxy/config-map", "lower-case"]),
        (&["weir.proxy/config-map: a", "weir.proxy/config: 'workers: 1'"], &["cannot both be: leave one out"]),
        (&["weir.proxy/identity-secret: a", "weir.proxy/workload-api: b"], &["cannot both be: leave one out"]),
        (&["weir.proxy/workload-api: \"true\""], &["weir.proxy/workload-api", "`csi.spiffe.io`"]),
        (
            &["weir.proxy/memory-request: 1Gi", "weir.proxy/memory-limit: 512Mi"],
            &["`memory-request` of 1Gi is more than `memory-limit` of 512Mi"],
        ),
        (&["weir.proxy/wait-before-exit: soon", "weir.proxy/native: x"], &["number of seconds", "`true` or `false`"]),
    ] {
        let said = weir(&["inject"], &pod(annotations))?;
        holds!(!said.ok && said.out.is_empty(), "{annotations:?}: {}", said.out);
        for word in wanted {
            holds!(said.err.contains(word), "{annotations:?}: `{word}` is not in {}", said.err);
        }
    }
    for (text, wanted) in [
        ("a: [", "standard input: line"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: x }\n", "deployment/x: it has no `spec.template`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: { name: x }\n", "pod/x: the pod has no `spec`"),
        ("apiVersion: v1\nkind: Pod\nspec: { containers: {} }\n", "`spec.containers`"),
        ("apiVersion: v1\nkind: Pod\nspec: { containers: [{ name: a }], initContainers: {} }\n", "`spec.initContainers` of"),
        (
            "apiVersion: v1\nkind: Pod\nspec: { containers: [{ name: a }], volumes: x }\n",
            "`spec.volumes` of the pod must be a list",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: 7\nspec: { containers: [{ name: a }] }\n", "must be mappings"),
    ] {
        let said = weir(&["inject"], text)?;
        holds!(!said.ok && said.out.is_empty() && said.err.contains(wanted), "{text}: {}", said.err);
    }
    for options in
        [&["--log", "loud"][..], &["--cpu-request", "lots"], &["--config-map", "A_B"], &["--image", ""], &["--workload-api=-"]]
    {
        let said = weir(&[&["inject"], options].concat(), "")?;
        let is_told = said.err.contains("invalid value") || said.err.contains("a value is required");
        holds!(!said.ok && said.out.is_empty() && is_told, "{options:?}: {}", said.err);
    }
    let said = weir(&["inject", "--cpu-request=2", "--cpu-limit=1500m"], &pod(&[]))?;
    holds!(!said.ok && said.err.contains("`cpu-request` of 2 is more than `cpu-limit` of 1500m"), "{}", said.err);
    let said = weir(&["inject"], "\n")?;
    holds!(!said.ok && said.err.contains("standard input is empty"), "{}", said.err);
    // A word behind it is a file, and not what it mounts.
    let said = weir(&["inject", "--workload-api", "/nowhere/at/all.yaml"], "")?;
    holds!(!said.ok && said.err.contains("cannot read /nowhere/at/all.yaml"), "{}", said.err);
    for (annotation, wanted) in [
        ("includ-inbound-ports: \"80\"", "did you mean `include-inbound-ports`"),
        ("classic: \"true\"", "write `weir.proxy/native: \"false\"`"),
        ("exclude-inbound-cidrs: 10.0.0.0/8", "it is an option of `weir inject`"),
    ] {
        let said = weir(&["inject"], &pod(&[&format!("weir.proxy/{annotation}")]))?;
        holds!(said.ok && said.err.contains(wanted), "{annotation}: {}", said.err);
    }
    let misplaced = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a, annotations: { weir.proxy/log: debug } }\n\
                     spec: { template: { spec: { containers: [{ name: a }] } } }\n";
    let said = weir(&["inject"], misplaced)?;
    holds!(
        said.ok && said.err.contains("note: `weir.proxy/log` means nothing here: it belongs in `spec.template.metadata`"),
        "{}",
        said.err
    );
    // Where nothing changes, not a byte does.
    let odd = "a:   'b'   # c\n---\n  {x: [1,2]}\n";
    for (command, why) in [("inject", "no pods here"), ("uninject", "no sidecars here")] {
        let said = weir(&[command], odd)?;
        holds!(said.ok && said.out == odd && said.err.contains(why), "{command}: {}{}", said.out, said.err);
    }
    let said = weir(&["inject", "/nowhere/at/all.yaml"], "")?;
    holds!(!said.ok && said.err.contains("cannot read /nowhere/at/all.yaml"), "{}", said.err);
    Ok(())
}

async fn changes() -> Result {
    let before = pod(&["weir.proxy/log: info"]);
    let classic = weir(&["inject", "--classic", "--identity-secret", "tls"], &before)?.out;
    let native = weir(&["inject"], &classic)?.out;
    same!(native, weir(&["inject"], &before)?.out);
    same!(weir(&["uninject"], &native)?.out, weir(&["uninject"], &classic)?.out);
    holds!(!weir(&["uninject"], &classic)?.out.contains("weir.proxy/status"));
    // Whoever does not want one any more has it taken away.
    let off = native.replace("weir.proxy/log: info", "weir.proxy/inject: \"false\"");
    let said = weir(&["inject"], &off)?;
    holds!(said.ok && !said.out.contains("weir-redirect"), "{}", said.out);
    // Copied from another pod, it is ours all the same.
    let copied = weir(&["inject"], &pod(&["weir.proxy/default-config: x", "weir.proxy/log: info"]))?.out;
    same!(copied, native);
    // A probe that somebody has changed since is theirs.
    let changed = native.replace("/app/app/readinessProbe\n", "/mine\n");
    holds!(weir(&["uninject"], &changed)?.out.contains("path: /mine"));
    Ok(())
}

async fn both() -> Result {
    let own = "weir.proxy/config: '{probes: {listen: \"0.0.0.0:15020\"}, listeners: [{name: a, listen: \"127.0.0.1:1\", direction: outbound}]}'";
    let none = "weir.proxy/redirect: \"false\"";
    for (options, annotations, wanted, unwanted) in [
        (&["--config-map", "all"][..], &[own, none][..], "metadata.annotations['weir.proxy/config']", "configMap"),
        (&["--config-map", "all"], &["weir.proxy/config-map: mine"], "name: mine", "name: all"),
        (&["--workload-api"], &["weir.proxy/identity-secret: tls"], "secretName: tls", "csi"),
        (&["--identity-secret", "tls"], &["weir.proxy/workload-api: csi.spiffe.io"], "driver: csi.spiffe.io", "secretName"),
        // What is reserved as usual gives way to a limit, and the usual limit to what is reserved.
        (&["--memory-limit", "16Mi"], &[], "memory: \"16Mi\"", "24Mi"),
        (&[], &["weir.proxy/memory-request: 1Gi"], "memory: \"1Gi\"", "256Mi"),
        (&["--memory-request=32Mi"], &["weir.proxy/memory-limit: 28Mi"], "memory: \"24Mi\"", "32Mi"),
        (&["--cpu-limit=1"], &["weir.proxy/cpu-request: 1500m"], "cpu: \"1500m\"", "limits:\n        cpu"),
    ] {
        let said = weir(&[&["inject"], options].concat(), &pod(annotations))?;
        holds!(said.ok && said.out.contains(wanted), "{options:?} {annotations:?}: {}{}", said.out, said.err);
        holds!(!said.out.contains(unwanted), "{options:?} {annotations:?}: {}", said.out);
    }
    // Whoever injects again without an option has taken back what it said.
    let again = weir(&["inject"], &weir(&["inject", "--config-map", "shop"], &pod(&[]))?.out)?;
    holds!(again.ok && again.err.contains("note: the ConfigMap `shop`") && !again.out.contains("configMap"), "{}", again.err);
    Ok(())
}

async fn probes() -> Result {
    let injected = weir(&["inject"], &pod(&[]))?.out;
    let renamed = injected.replace("- name: app\n", "- name: web\n");
    holds!(renamed != injected, "{injected}");
    let again = weir(&["inject"], &renamed)?;
    same!(again.out, weir(&["inject"], &pod(&[]).replace("- name: app\n", "- name: web\n"))?.out);
    let out = weir(&["uninject"], &renamed)?;
    holds!(out.out.contains("path: /ready") && !out.err.contains("note"), "{}{}", out.out, out.err);
    let empty = pod(&[]).replace("httpGet: { path: /ready, port: http }", "httpGet:\n      tcpSocket: { port: http }");
    let once = weir(&["inject"], &empty)?;
    same!(once.out.matches("/app/app/readinessProbe").count(), 2, "{}", once.out);
    same!(weir(&["inject"], &once.out)?.out, once.out);
    // Where nobody knows what was asked before, that is said.
    let lost = injected.replace("WEIR_APP_PROBES", "SOMETHING_ELSE");
    let said = weir(&["inject"], &lost)?;
    let wanted = "the readinessProbe of container `app` asks weir (/app/app/readinessProbe, port 15020)";
    holds!(!said.ok && said.out.is_empty() && said.err.contains(wanted), "{}", said.err);
    let said = weir(&["uninject"], &lost)?;
    holds!(said.ok && said.err.contains(&format!("note: {wanted}")), "{}", said.err);
    Ok(())
}
