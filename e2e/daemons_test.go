package e2e

import (
	"cmp"
	"fmt"
	"os/exec"
	"testing"
)

// The clients that are daemons.

type dockerd struct{ tool }

func startDockerd(t *testing.T, s *site, mirror string) dockerd {
	t.Helper()
	d := dockerd{newTool(t, s, mirror)}
	d.start(t, d.write(t, "daemon.json", cmp.Or(d.setup(t, "docker"), "{}")))
	return d
}

func (d dockerd) start(t *testing.T, config string) {
	t.Helper()
	daemon := startDaemon(t, d.ns, "dockerd", d.command("dockerd", "--config-file", config,
		"--data-root", d.path("data"), "--exec-root", d.path("exec"), "--host", d.host(), "--pidfile", d.path("pid"),
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level", "warn"))
	daemon.waitReady(t, func() bool {
		_, err := run(d.ns, d.docker("version"))
		return err == nil
	})
}

func (d dockerd) host() string { return "unix://" + d.path("docker.sock") }

func (d dockerd) docker(args ...string) *exec.Cmd {
	return d.command("docker", append([]string{"--host", d.host()}, args...)...)
}

// reference is how dockerd names an image: it has mirrors for one registry only.
func (d dockerd) reference(i *image) string {
	if i.registry() == dockerHub {
		return i.name()
	}
	return d.inBox(i)
}

func (d dockerd) pull(i *image) error {
	if _, err := run(d.ns, d.docker("pull", "--quiet", d.reference(i))); err != nil {
		return err
	}
	return d.holds(i.root.Digest, d.docker("image", "inspect", "--format", "{{.RepoDigests}}", d.reference(i)))
}

// run starts a container of the image and returns what it prints.
func (d dockerd) run(t *testing.T, i *image, command ...string) string {
	t.Helper()
	return mustRun(t, d.ns, d.docker(append([]string{"run", "--rm", "--network", "none", d.reference(i)}, command...)...))
}

// containerdConfig is a containerd with no more than ctr needs. Three values: root, state and the directory of the sockets.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`

// containerd2Config is what 2.x needs beside it: its daemon pulls and unpacks for ctr. Two values: settings of that, and the snapshotter.
const containerd2Config = `[plugins."io.containerd.transfer.v1.local"]
  %s
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = %q
`

type containerd struct {
	tool
	daemon, client string // the programs
	hosts          string // directory of hosts.toml files; empty without a mirror
}

// startContainerd starts Debian's.
func startContainerd(t *testing.T, s *site, mirror string) containerd {
	t.Helper()
	c := containerd{tool: newTool(t, s, mirror), daemon: "containerd", client: "ctr"}
	c.start(t, "")
	return c
}

// startContainerd2 starts the one that .ci/run has installed, with settings of its transfer service.
func startContainerd2(transfer string) func(t *testing.T, s *site, mirror string) session {
	return func(t *testing.T, s *site, mirror string) session {
		t.Helper()
		c := containerd{tool: newTool(t, s, mirror), daemon: installed("containerd"), client: installed("ctr")}
		c.start(t, c.unpacks(transfer))
		return c
	}
}

func (c *containerd) start(t *testing.T, settings string) {
	t.Helper()
	if c.mirror != "" {
		c.write(t, "certs.d/_default/hosts.toml", c.setup(t, "containerd"))
		c.hosts = c.path("certs.d")
	}
	config := c.write(t, "config.toml", fmt.Sprintf(containerdConfig, c.path("root"), c.path("state"), c.socket(), c.socket()+".ttrpc")+settings)
	daemon := startDaemon(t, c.ns, "containerd", c.command(c.daemon, "--config", config, "--log-level", "warn"))
	daemon.waitReady(t, func() bool {
		_, err := run(c.ns, c.ctr("version"))
		return err == nil
	})
}

// unpacks is the configuration of 2.x' transfer service.
func (c containerd) unpacks(transfer string) string {
	return fmt.Sprintf(containerd2Config, transfer, c.snapshotter())
}

func (c containerd) snapshotter() string {
	if overlayWorks(c.dir) {
		return "overlayfs"
	}
	return "native"
}

func (c containerd) socket() string { return c.path("c.sock") }

func (c containerd) ctr(args ...string) *exec.Cmd {
	return c.command(c.client, append([]string{"--address", c.socket()}, args...)...)
}

func (c containerd) pull(i *image) error {
	args := []string{"images", "pull", "--snapshotter", c.snapshotter()}
	if c.hosts != "" {
		args = append(args, "--hosts-dir", c.hosts)
	}
	if _, err := run(c.ns, c.ctr(append(args, i.name())...)); err != nil {
		return err
	}
	return c.holds(i.root.Digest, c.ctr("images", "ls", "name=="+i.name()))
}
