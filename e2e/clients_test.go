package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// client is a program that pulls images.
type client struct {
	name     string
	programs []string
	agent    string // what its own User-Agent begins with, before the slash
	// start begins from scratch: storage and configuration of its own, pulling through the mirror, or straight when that is empty.
	start func(t *testing.T, s *site, mirror string) session
}

// session is a client that pulls and then checks that it really holds the right image.
type session interface {
	pull(i *image) error
}

var clients = []client{
	{"dockerd", []string{"dockerd", "docker"}, "docker", func(t *testing.T, s *site, mirror string) session { return startDockerd(t, s, mirror) }},
	{"ctr", []string{"containerd", "ctr"}, "containerd", startContainerd},
	{"podman", []string{"podman"}, "containers", startPodman},
	{"skopeo", []string{"skopeo"}, "skopeo", startSkopeo},
	{"crane", []string{"crane"}, "crane", startCrane},
}

// clientNamed is for tests that need one client.
func clientNamed(t *testing.T, name string) client {
	t.Helper()
	for _, c := range clients {
		if c.name == name {
			need(t, c.programs...)
			return c
		}
	}
	t.Fatalf("no client %s", name)
	return client{}
}

func mustPull(t *testing.T, client session, i *image) {
	t.Helper()
	if err := client.pull(i); err != nil {
		t.Fatal(err)
	}
}

// tool is what the sessions have in common: a directory and a site.
type tool struct {
	*site
	dir    string
	mirror string
}

func newTool(t *testing.T, s *site, mirror string) tool {
	t.Helper()
	return tool{site: s, dir: scratch(t), mirror: mirror}
}

func (c tool) path(name string) string { return filepath.Join(c.dir, name) }

// command is a program that trusts the stand-in and keeps its own files to its directory.
func (c tool) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = environment("SSL_CERT_FILE="+c.caFile, "HOME="+c.dir, "XDG_RUNTIME_DIR="+c.dir, "TMPDIR="+c.dir,
		"CONTAINERS_REGISTRIES_CONF="+c.path("registries.conf"))
	return cmd
}

func (c tool) write(t *testing.T, name, content string) string {
	t.Helper()
	path := c.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// inBox names an image for a client that knows no mirrors: the box is its registry, and the real one is part of the path.
func (c tool) inBox(i *image) string {
	switch {
	case c.mirror == "":
		return i.name()
	case i.registry() == dockerHub:
		return c.mirror + "/" + i.path()
	default:
		return c.mirror + "/" + i.name()
	}
}

// overlayWorks says whether the storage drivers can stack their layers here: not where the file system is an overlay itself.
func overlayWorks(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type != unix.OVERLAYFS_SUPER_MAGIC
}

type dockerd struct{ tool }

// startDockerd may be given further mirrors, to be asked in order.
func startDockerd(t *testing.T, s *site, mirror string, further ...string) dockerd {
	t.Helper()
	d := dockerd{newTool(t, s, mirror)}
	config := d.write(t, "daemon.json", dockerdConfig(t, append([]string{mirror}, further...)...))
	daemon := startDaemon(t, s.ns, "dockerd", d.command("dockerd", "--config-file", config,
		"--data-root", d.path("data"), "--exec-root", d.path("exec"), "--host", d.host(), "--pidfile", d.path("pid"),
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level", "warn"))
	daemon.waitReady(t, func() bool {
		_, err := run(s.ns, d.docker("version"))
		return err == nil
	})
	return d
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
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`

type containerd struct {
	tool
	hosts string // directory of hosts.toml files; empty without a mirror
}

func startContainerd(t *testing.T, s *site, mirror string) session {
	t.Helper()
	c := containerd{tool: newTool(t, s, mirror)}
	if mirror != "" {
		for _, registry := range registries {
			c.write(t, filepath.Join("certs.d", registry, "hosts.toml"), containerdHosts(t, registry, mirror))
		}
		c.hosts = c.path("certs.d")
	}
	config := c.write(t, "config.toml", fmt.Sprintf(containerdConfig, c.path("root"), c.path("state"), c.socket(), c.socket()+".ttrpc"))
	daemon := startDaemon(t, s.ns, "containerd", c.command("containerd", "--config", config, "--log-level", "warn"))
	daemon.waitReady(t, func() bool {
		_, err := run(s.ns, c.ctr("version"))
		return err == nil
	})
	return c
}

func (c containerd) socket() string { return c.path("c.sock") }

func (c containerd) ctr(args ...string) *exec.Cmd {
	return c.command("ctr", append([]string{"--address", c.socket()}, args...)...)
}

func (c containerd) pull(i *image) error {
	snapshotter := "native"
	if overlayWorks(c.dir) {
		snapshotter = "overlayfs"
	}
	args := []string{"images", "pull", "--snapshotter", snapshotter}
	if c.hosts != "" {
		args = append(args, "--hosts-dir", c.hosts)
	}
	if _, err := run(c.ns, c.ctr(append(args, i.name())...)); err != nil {
		return err
	}
	return c.holds(i.root.Digest, c.ctr("images", "ls", "name=="+i.name()))
}

type podman struct{ tool }

func startPodman(t *testing.T, s *site, mirror string) session {
	t.Helper()
	p := podman{newTool(t, s, mirror)}
	p.write(t, "registries.conf", containersRegistries(t, mirror))
	return p
}

func (p podman) podman(args ...string) *exec.Cmd {
	driver := "vfs"
	if overlayWorks(p.dir) {
		driver = "overlay"
	}
	return p.command("podman", append([]string{"--root", p.path("root"), "--runroot", p.path("run"), "--storage-driver", driver}, args...)...)
}

func (p podman) pull(i *image) error {
	if _, err := run(p.ns, p.podman("pull", "--quiet", i.name())); err != nil {
		return err
	}
	return p.holds(i.root.Digest, p.podman("image", "inspect", "--format", "{{.RepoDigests}}", i.name()))
}

type skopeo struct{ tool }

func startSkopeo(t *testing.T, s *site, mirror string) session {
	t.Helper()
	k := skopeo{newTool(t, s, mirror)}
	k.write(t, "registries.conf", containersRegistries(t, mirror))
	return k
}

// pull copies into a directory, the one format that keeps manifest and blobs as they are.
func (k skopeo) pull(i *image) error {
	out := k.path("image")
	// Debian's skopeo does not look at $CONTAINERS_REGISTRIES_CONF.
	if _, err := run(k.ns, k.command("skopeo", "--registries-conf", k.path("registries.conf"), "--insecure-policy", "copy", "--quiet", "docker://"+i.name(), "dir:"+out)); err != nil {
		return err
	}
	files := map[string]digest.Digest{"manifest.json": i.child.Digest}
	for _, blob := range i.pulled() {
		files[blob.Digest.Encoded()] = blob.Digest
	}
	return errors.Join(checkFiles(out, files), os.RemoveAll(out))
}

type crane struct{ tool }

func startCrane(t *testing.T, s *site, mirror string) session {
	t.Helper()
	return crane{newTool(t, s, mirror)}
}

func (c crane) pull(i *image) error {
	out := c.path("image")
	if _, err := run(c.ns, c.command("crane", "pull", "--platform", "linux/"+runtime.GOARCH, "--format", "oci", c.inBox(i), out)); err != nil {
		return err
	}
	files := map[string]digest.Digest{}
	for _, each := range append(i.pulled(), i.child) {
		files[filepath.Join(ocispec.ImageBlobsDir, "sha256", each.Digest.Encoded())] = each.Digest
	}
	return errors.Join(checkFiles(out, files), os.RemoveAll(out))
}

// holds asks a client what it holds.
func (c tool) holds(want digest.Digest, question *exec.Cmd) error {
	out, err := run(c.ns, question)
	if err == nil && !strings.Contains(out, want.String()) {
		err = fmt.Errorf("the client holds %q, want %s", out, want)
	}
	return err
}

// checkFiles checks what a client has written.
func checkFiles(dir string, want map[string]digest.Digest) error {
	var all error
	for name, d := range want {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if got := digest.FromBytes(content); err == nil && got != d {
			err = fmt.Errorf("%s is %s, want %s", name, got, d)
		}
		all = errors.Join(all, err)
	}
	return all
}
