"""What the Kubernetes manifests, the compose file and the Dockerfile have to agree on. Called by scripts/check-deploy.sh.

    python3 scripts/check-manifests.py              every rule on the files of this repository
    python3 scripts/check-manifests.py --self-test  breaks each file in memory and expects the rule that finds it
    python3 scripts/check-manifests.py --environments   one line per started node: NAME=VALUE …, as it would be set

Rules are functions from the files to a list of problems. Where `kubernetes-validate` (from PyPI, with the schemas in it) is
installed, the manifests are held against those too.
"""

import copy
import glob
import re
import shlex
import sys

import yaml

NAME = "app.kubernetes.io/name"
PORTS = {"client": 7400, "peer": 7401, "agents": 7402}


def load():
    """The files, parsed: documents by kind and name, the compose file, the Dockerfile, the routes."""
    documents = []
    for path in sorted(glob.glob("deploy/kubernetes/*.yaml")):
        with open(path) as file:
            documents += [document for document in yaml.safe_load_all(file) if document]
    with open("docker-compose.yml") as file:
        compose = yaml.safe_load(file)
    with open("Dockerfile") as file:
        dockerfile = file.read()
    with open("src/api/routes.rs") as file:
        routes = set(re.findall(r'Route::at\("([^"]+)"\)', file.read()))
    with open("deploy/prometheus/prometheus.yml") as file:
        prometheus = yaml.safe_load(file)
    with open("deploy/grafana/provisioning/dashboards/super-node.yml") as file:
        dashboards = yaml.safe_load(file)
    monitored = {"prometheus": prometheus, "dashboards": dashboards}
    return {"documents": documents, "compose": compose, "dockerfile": dockerfile, "routes": routes, **monitored}


def of_kind(files, kind):
    return [document for document in files["documents"] if document["kind"] == kind]


def the_set(files):
    return of_kind(files, "StatefulSet")[0]


def pod(files):
    return the_set(files)["spec"]["template"]["spec"]


def container(files):
    return pod(files)["containers"][0]


def variables(files):
    return {one["name"]: one for one in container(files)["env"]}


def peers_of(text):
    return dict(one.split("=", 1) for one in text.split(","))


def kinds(files):
    found = sorted(document["kind"] for document in files["documents"])
    wanted = ["NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "StatefulSet"]
    return [] if found == wanted else [f"kinds are {found}"]


def selectors(files):
    """Everything that selects, selects the pods of the set."""
    labels = the_set(files)["spec"]["template"]["metadata"]["labels"]
    found = [("StatefulSet", the_set(files)["spec"]["selector"]["matchLabels"])]
    for one in of_kind(files, "Service"):
        found.append(("Service " + one["metadata"]["name"], one["spec"]["selector"]))
    for one in of_kind(files, "PodDisruptionBudget"):
        found.append(("PodDisruptionBudget", one["spec"]["selector"]["matchLabels"]))
    for one in of_kind(files, "NetworkPolicy"):
        found.append(("NetworkPolicy", one["spec"]["podSelector"]["matchLabels"]))
    terms = pod(files)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    found += [("anti-affinity", one["podAffinityTerm"]["labelSelector"]["matchLabels"]) for one in terms]
    wrong = [(who, what) for who, what in found if not what or not what.items() <= labels.items()]
    return [f"{who} selects {what}, not the pods" for who, what in wrong]


def headless(files):
    """The set names a headless Service that knows its pods before they are ready; clients have another."""
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(files, "Service")}
    name = the_set(files)["spec"]["serviceName"]
    spec = services.pop(name, {})
    problems = []
    if spec.get("clusterIP") != "None":
        problems.append(f"the set's Service {name} is not headless")
    if not spec.get("publishNotReadyAddresses"):
        problems.append(f"{name} does not publish addresses that are not ready")
    if [one.get("clusterIP") for one in services.values()] != [None]:
        problems.append("there is no Service for clients")
    return problems


def ports(files):
    """Ports are those of the image, and what names a port finds it."""
    problems = []
    exposed = re.search(r"^EXPOSE (.+)$", files["dockerfile"], re.M).group(1).split()
    if [int(port) for port in exposed] != list(PORTS.values()):
        problems.append(f"the Dockerfile exposes {exposed}")
    own = {one["name"]: (one["containerPort"], one.get("protocol", "TCP")) for one in container(files)["ports"]}
    if {name: port for name, (port, _) in own.items()} != PORTS or own["agents"][1] != "UDP":
        problems.append(f"the container's ports are {own}")
    for name, port in PORTS.items():
        listen = variables(files)[f"SUPER_NODE_LISTEN__{name.upper()}"]["value"]
        if listen != f"0.0.0.0:{port}":
            problems.append(f"{name} listens on {listen}")
    used = []
    for one in of_kind(files, "Service"):
        used += [(one["metadata"]["name"], port["targetPort"], port) for port in one["spec"]["ports"]]
    for one in of_kind(files, "NetworkPolicy"):
        for rule in one["spec"]["ingress"]:
            used += [("NetworkPolicy", port["port"], port) for port in rule["ports"]]
    for who, target, port in used:
        if target not in own or port.get("protocol", "TCP") != own[target][1]:
            problems.append(f"{who}: no port {target} of that protocol")
        elif "targetPort" in port and port["port"] != own[target][0]:
            problems.append(f"{who}: {target} is not {port['port']}")
    return problems


def probes(files):
    """Probes ask for routes that exist; only readiness may depend on others."""
    problems = []
    for probe, wanted in {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        get = container(files).get(probe, {}).get("httpGet", {})
        if get.get("port") != "client" or get.get("path") != wanted or wanted not in files["routes"]:
            problems.append(f"{probe} is {get}")
    return problems


def volumes(files):
    """What is mounted exists, what exists is mounted, and the data directory is on a claim."""
    claims = {one["metadata"]["name"] for one in the_set(files)["spec"]["volumeClaimTemplates"]}
    known = claims | {one["name"] for one in pod(files).get("volumes", [])}
    mounts = {one["name"]: one["mountPath"] for one in container(files)["volumeMounts"]}
    problems = [f"volume {name} is unknown or not mounted" for name in sorted(known ^ set(mounts))]
    data = variables(files)["SUPER_NODE_NODE__DATA_DIR"]["value"]
    if data not in [path for name, path in mounts.items() if name in claims]:
        problems.append(f"the data directory {data} is not on a claim")
    if f"VOLUME {data}\n" not in files["dockerfile"]:
        problems.append(f"the data directory {data} is not the image's")
    return problems


def peers(files):
    """The founders are the pods, under names that the headless Service gives them."""
    name, service = the_set(files)["metadata"]["name"], the_set(files)["spec"]["serviceName"]
    pods = [f"{name}-{number}" for number in range(the_set(files)["spec"]["replicas"])]
    wanted = {one: f"{one}.{service}:{PORTS['peer']}" for one in pods}
    found = peers_of(variables(files)["SUPER_NODE_CLUSTER__PEERS"]["value"])
    problems = [] if found == wanted else [f"peers are {found}"]
    if variables(files)["SUPER_NODE_LISTEN__ADVERTISE"]["value"] != f"$(SUPER_NODE_NODE__ID).{service}":
        problems.append("a node advertises another name than its peers know")
    if the_set(files)["spec"].get("podManagementPolicy") != "Parallel":
        problems.append("the first pod would wait to be ready before there is a second")
    if pod(files).get("enableServiceLinks") is not False:
        problems.append("variables of Kubernetes would begin as ours do")
    if any(one["spec"].get("maxUnavailable") != 1 for one in of_kind(files, "PodDisruptionBudget")):
        problems.append("more than one node may be away")
    return problems


def rights(files):
    """No root, no writable system, no secrets in a file; the account is the image's."""
    problems = []
    user = re.search(r"^USER (\d+):(\d+)$", files["dockerfile"], re.M)
    security = {**pod(files)["securityContext"], **container(files)["securityContext"]}
    ids = [security.get("runAsUser"), security.get("runAsGroup"), security.get("fsGroup")]
    if not user or user.group(1) == "0" or ids != [int(user.group(1)), int(user.group(2)), int(user.group(2))]:
        problems.append(f"the account is {ids}, not the image's")
    wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
    problems += [f"{key} is {security.get(key)}" for key, value in wanted.items() if security.get(key) is not value]
    if security.get("capabilities") != {"drop": ["ALL"]}:
        problems.append("capabilities are kept")
    if of_kind(files, "Secret") or "value" in variables(files)["MONGODB_URI"]:
        problems.append("a secret stands in the manifests")
    for name, service in files["compose"]["services"].items():
        uri = str(service.get("environment", {}).get("MONGODB_URI", ""))
        if "@" in uri:
            problems.append(f"compose: {name}: a password stands in the file")
    return problems


def images(files):
    """One version of ours everywhere, and every other image by a full version."""
    ours = files["compose"]["services"]["node-1"]["image"]
    problems = [] if container(files)["image"] == ours else ["Kubernetes and compose run different images"]
    with open("Cargo.toml") as file:
        version = re.search(r'^version = "([^"]+)"', file.read(), re.M).group(1)
    if ours != f"super-node:{version}":
        problems.append(f"the image is {ours}, the package {version}")
    used = [service["image"] for service in files["compose"]["services"].values()]
    used += re.findall(r"^FROM (\S+)", files["dockerfile"], re.M)
    full = re.compile(r":v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z-]+)?$")
    problems += [f"{image} is not pinned" for image in used if not full.search(image)]
    resources = container(files)["resources"]
    if not resources.get("requests", {}).keys() >= {"cpu", "memory"} or "memory" not in resources.get("limits", {}):
        problems.append("resources are not requested")
    return problems


def compose(files):
    """Each service restarts, is limited, and keeps what it has in a named volume; servers have a health check."""
    problems = []
    services, named = files["compose"]["services"], files["compose"]["volumes"]
    for name, service in services.items():
        problems += [f"compose: {name} has no {key}" for key in ("restart", "mem_limit", "cpus") if key not in service]
        if "healthcheck" not in service and name != "mongodb-members":
            problems.append(f"compose: {name} has no health check")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("./") and source not in named:
                problems.append(f"compose: {name}: volume {source} has no name")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                problems.append(f"compose: {name}: port {port} is open to the network")
    nodes = {name: one for name, one in services.items() if name.startswith("node-")}
    for name, service in nodes.items():
        environment = service["environment"]
        found = peers_of(service["command"][service["command"].index("--peers") + 1])
        all_of_them = sorted(found.values()) == [f"{one}:7401" for one in sorted(nodes)]
        if not all_of_them or found.get(environment["SUPER_NODE_NODE__ID"]) != f"{name}:7401":
            problems.append(f"compose: {name}: peers are {found}")
    servers = sorted(name for name in services if re.fullmatch(r"mongodb(-\d)?", name))
    for name, service in nodes.items():
        uri = service["environment"]["MONGODB_URI"]
        if sorted(re.findall(r"(mongodb[-\d]*):27017", uri)) != servers:
            problems.append(f"compose: {name} does not know {servers}")
    with open("deploy/compose/replica-set.js") as file:
        if sorted(re.findall(r'"(mongodb[-\d]*):27017"', file.read())) != servers:
            problems.append("replica-set.js makes other members")
    return problems


def monitoring(files):
    """Prometheus scrapes every node at its client port and a route that is there, Grafana finds the dashboard, nobody has a password."""
    problems = []
    services = files["compose"]["services"]
    nodes = sorted(f"{name}:7400" for name in services if name.startswith("node-"))
    (scrape,) = files["prometheus"]["scrape_configs"]
    targets = sorted(target for group in scrape["static_configs"] for target in group["targets"])
    if targets != nodes:
        problems.append(f"prometheus.yml scrapes {targets}, there are {nodes}")
    if scrape["metrics_path"] not in files["routes"]:
        problems.append(f"prometheus.yml scrapes {scrape['metrics_path']}, which is no route")
    (provider,) = files["dashboards"]["providers"]
    mounts = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    if not any(mount.startswith(provider["options"]["path"] + "/") for mount in mounts):
        problems.append(f"no dashboard is mounted below {provider['options']['path']}")
    settings = services["grafana"]["environment"]
    problems += [f"compose: grafana: {name} is a secret" for name in settings if "PASSWORD" in name or "SECRET" in name]
    return problems


RULES = [kinds, selectors, headless, ports, probes, volumes, peers, rights, images, compose, monitoring]


def put(place, *path):
    """Sets what is at the end of a path."""
    *path, last, value = path
    for step in path:
        place = place[step]
    place[last] = value


def variable(name, value):
    return lambda files: variables(files)[name].update(value=value)


# What is broken, and the rule that has to find it.
BREAKS = [
    (kinds, lambda files: files["documents"].pop()),
    (selectors, lambda files: put(of_kind(files, "PodDisruptionBudget")[0], "spec", "selector", "matchLabels", NAME, "other")),
    (selectors, lambda files: put(of_kind(files, "Service")[0], "spec", "selector", {})),
    (headless, lambda files: put(the_set(files), "spec", "serviceName", "super-node")),
    (headless, lambda files: of_kind(files, "Service")[1]["spec"].pop("publishNotReadyAddresses")),
    (ports, lambda files: put(container(files), "ports", 1, "containerPort", 7411)),
    (ports, lambda files: put(of_kind(files, "Service")[0], "spec", "ports", 0, "targetPort", "http")),
    (ports, lambda files: of_kind(files, "NetworkPolicy")[0]["spec"]["ingress"][1]["ports"][1].pop("protocol")),
    (ports, variable("SUPER_NODE_LISTEN__PEER", "127.0.0.1:7401")),
    (probes, lambda files: put(container(files), "livenessProbe", "httpGet", "path", "/readyz")),
    (probes, lambda files: files["routes"].remove("/livez")),
    (probes, lambda files: container(files).pop("startupProbe")),
    (volumes, lambda files: put(container(files), "volumeMounts", 0, "name", "state")),
    (volumes, variable("SUPER_NODE_NODE__DATA_DIR", "/tmp")),
    (peers, lambda files: put(the_set(files), "spec", "replicas", 5)),
    (peers, variable("SUPER_NODE_LISTEN__ADVERTISE", "localhost")),
    (peers, lambda files: put(the_set(files), "spec", "podManagementPolicy", "OrderedReady")),
    (peers, lambda files: pod(files).pop("enableServiceLinks")),
    (rights, lambda files: put(pod(files), "securityContext", "runAsUser", 0)),
    (rights, variable("MONGODB_URI", "mongodb://ann:secret@db")),
    (rights, lambda files: files.update(dockerfile=files["dockerfile"].replace("USER 10001:10001", "USER root"))),
    (images, lambda files: put(container(files), "image", "super-node:latest")),
    (images, lambda files: put(files["compose"], "services", "mongodb", "image", "mongo:7")),
    (images, lambda files: container(files).pop("resources") and put(container(files), "resources", {})),
    (compose, lambda files: files["compose"]["services"]["mongodb-2"].pop("mem_limit")),
    (compose, lambda files: files["compose"]["services"]["node-2"].pop("healthcheck")),
    (compose, lambda files: put(files["compose"], "services", "node-3", "environment", "SUPER_NODE_NODE__ID", "n2")),
    (compose, lambda files: put(files["compose"], "services", "node-1", "ports", 0, "7400:7400")),
    (compose, lambda files: files["compose"]["volumes"].pop("node-2")),
    (monitoring, lambda files: files["prometheus"]["scrape_configs"][0]["static_configs"][0]["targets"].pop()),
    (monitoring, lambda files: put(files["prometheus"], "scrape_configs", 0, "metrics_path", "/stats")),
    (monitoring, lambda files: put(files["dashboards"], "providers", 0, "options", "path", "/dashboards")),
    (monitoring, lambda files: put(files["compose"], "services", "grafana", "environment", "GF_SECURITY_ADMIN_PASSWORD", "x")),
]


def self_test():
    problems = [f"{rule.__name__} has no break" for rule in RULES if rule not in [one for one, _ in BREAKS]]
    whole = load()
    for number, (rule, damage) in enumerate(BREAKS):
        files = apart(whole)
        damage(files)
        if not rule(files):
            problems.append(f"{rule.__name__} does not notice break {number}")
    return problems


def apart(value):
    """A copy in which nothing is shared: what an anchor names is broken in one service, not in all."""
    if isinstance(value, dict):
        return {key: apart(one) for key, one in value.items()}
    if isinstance(value, list):
        return [apart(one) for one in value]
    return copy.copy(value)


def schemas(files):
    try:
        import kubernetes_validate
    except ImportError:
        return []
    problems = []
    for document in files["documents"]:
        try:
            kubernetes_validate.validate(document, "1.30", strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{document['kind']}: {error.message}")
    return problems


def environments(files):
    """The settings of each node, as its container gets them."""
    found = []
    for number in range(the_set(files)["spec"]["replicas"]):
        own = f"{the_set(files)['metadata']['name']}-{number}"
        values = {name: str(one["value"]) for name, one in variables(files).items() if "value" in one}
        values["SUPER_NODE_NODE__ID"] = own
        found.append({name: value.replace("$(SUPER_NODE_NODE__ID)", own) for name, value in values.items()})
    for name, service in files["compose"]["services"].items():
        if name.startswith("node-"):
            command = service["command"]
            given = {"SUPER_NODE_INSECURE": "true", "SUPER_NODE_CLUSTER__PEERS": command[command.index("--peers") + 1]}
            found.append({**service["environment"], **given})
    return found


def main():
    if sys.argv[1:] == ["--environments"]:
        for one in environments(load()):
            print(" ".join(shlex.quote(f"{name}={value}") for name, value in one.items()))
        return 0
    if sys.argv[1:] == ["--self-test"]:
        problems = self_test()
        done = f"{len(BREAKS)} broken files are noticed"
    else:
        files = load()
        problems = [f"{rule.__name__}: {problem}" for rule in RULES + [schemas] for problem in rule(files)]
        done = f"{len(files['documents'])} manifests, the compose file and the Dockerfile agree"
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print("failed" if problems else done)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
