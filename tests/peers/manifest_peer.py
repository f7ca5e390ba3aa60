"""Judges manifests by other readers than our own.

    manifest_peer.py valid VERSION FILE...    by the OpenAPI schemas of that version of Kubernetes, strictly
    manifest_peer.py same [FILE OTHER]...     both of each pair mean the same, but for what is empty
"""

import functools
import sys

import yaml

BUILT_IN = ("", "apps", "batch", "autoscaling", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "scheduling.k8s.io",
            "admissionregistration.k8s.io", "storage.k8s.io", "apiextensions.k8s.io")


def objects(file):
    with open(file, encoding="utf-8") as text:
        for document in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if document and document.get("kind") == "List":
                yield from document["items"]
            elif document:
                yield document


def valid(version, files):
    import kubernetes_validate
    from kubernetes_validate import utils

    # It would read all definitions again for each object.
    utils.schema_contents = functools.cache(utils.schema_contents)
    count, wrong = 0, []
    for file in files:
        for one in objects(file):
            group = one["apiVersion"].rpartition("/")[0]
            if group not in BUILT_IN:
                continue
            count += 1
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:
                wrong.append(f"{file}: {one['kind']}: {str(error)[:800]}")
    print("\n".join([f"{count} valid"] if not wrong else wrong))
    return bool(wrong)


def bare(value):
    if isinstance(value, dict):
        return {key: bare(part) for key, part in value.items() if part not in ({}, [], None)}
    if isinstance(value, list):
        return [bare(part) for part in value]
    return value


def same(files):
    return any([differ(one, other) for one, other in zip(files[::2], files[1::2])])


def differ(one, other):
    print(one)
    one, other = bare(list(objects(one))), bare(list(objects(other)))
    if one == other:
        return False
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            print(f"object {place}:\n{yaml.safe_dump(a)}\n---\n{yaml.safe_dump(b)}")
    print(f"{len(one)} and {len(other)} objects")
    return True


sys.exit(valid(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "valid" else same(sys.argv[2:]))
