package setup

import "slices"

// client is a kind of program that pulls.
type client struct {
	Name     string // in ?client= and hubcap setup
	also     []string
	Title    string
	template string // file in text/, without its ending
	Path     string // of the file that it reads; empty if it is configured by commands
	// ca is the path of the authority's certificate, with ADDRESS for the box's;
	// empty if the text itself has the certificate.
	ca string
	// Units are systemd's units that read the file at their start or reload. A
	// pattern means those that run. It is empty if the file is read at each pull.
	Units string
}

// HasFile reports whether the text is a file on the client's host.
func (c client) HasFile() bool { return c.Path != "" }

var clients = []client{
	{
		Name: "docker", also: []string{"dockerd", "dind"}, Title: "Docker", template: "docker",
		Path: "/etc/docker/daemon.json", ca: "/etc/docker/certs.d/ADDRESS/ca.crt", Units: "docker",
	},
	{
		Name: "containerd", also: []string{"nerdctl", "kubeadm", "kind"}, Title: "containerd, nerdctl, kubeadm, kind", template: "containerd",
		Path: "/etc/containerd/certs.d/_default/hosts.toml", ca: "/etc/containerd/certs.d/_default/hubcap.crt",
	},
	{
		Name: "k3s", Title: "k3s", template: "k3s",
		Path: "/etc/rancher/k3s/registries.yaml", ca: "/etc/rancher/k3s/hubcap.crt", Units: "'k3s*'",
	},
	{
		Name: "rke2", Title: "RKE2", template: "k3s",
		Path: "/etc/rancher/rke2/registries.yaml", ca: "/etc/rancher/rke2/hubcap.crt", Units: "'rke2*'",
	},
	{Name: "talos", Title: "Talos", template: "talos"},
	{
		Name: "podman", also: []string{"buildah", "skopeo"}, Title: "podman, buildah, skopeo", template: "podman",
		Path: "/etc/containers/registries.conf.d/hubcap.conf", ca: "/etc/containers/certs.d/ADDRESS/ca.crt",
	},
	{
		Name: "cri-o", also: []string{"crio"}, Title: "CRI-O", template: "podman",
		Path: "/etc/containers/registries.conf.d/hubcap.conf", ca: "/etc/containers/certs.d/ADDRESS/ca.crt", Units: "crio",
	},
	{
		Name: "buildkit", also: []string{"buildkitd", "buildx"}, Title: "BuildKit, buildx", template: "buildkit",
		Path: "/etc/buildkit/buildkitd.toml", ca: "/etc/buildkit/hubcap.crt", Units: "'buildkit*'",
	},
	{Name: "helm", Title: "Helm", template: "helm", ca: "hubcap.crt"},
	{Name: "crane", Title: "crane", template: "crane", ca: "hubcap.crt"},
	{Name: "oras", Title: "oras", template: "oras", ca: "hubcap.crt"},
	{Name: "regctl", Title: "regctl", template: "regctl", ca: "hubcap.crt"},
}

// find returns the client of a name.
func find(name string) (client, bool) {
	i := slices.IndexFunc(clients, func(c client) bool { return c.Name == name || slices.Contains(c.also, name) })
	if i < 0 {
		return client{}, false
	}
	return clients[i], true
}

// Names returns the names of all clients.
func Names() []string {
	var all []string
	for _, c := range clients {
		all = append(append(all, c.Name), c.also...)
	}
	return all
}

// namesWithFile returns the names of the clients that have a file.
func namesWithFile() []string {
	var all []string
	for _, c := range clients {
		if c.HasFile() {
			all = append(all, c.Name)
		}
	}
	return all
}
