package e2e

import (
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// client is a program that pulls images.
type client struct {
	name     string
	programs []string
	agent    string             // what its own User-Agent begins with, before the slash
	resumes  bool               // it goes on by itself where a download was cut
	cannot   map[string]outcome // by the name of the contents; what is not here it takes
	byRanges bool               // it asks for one layer by several ranges at once
	// describesAll says that it fetches manifests and configs of every platform, to describe them.
	describesAll bool
	// start begins from scratch: storage and configuration of its own, pulling through the mirror, or straight when that is empty.
	start func(t *testing.T, s *site, mirror string) session
}

// session is a client that pulls and then checks that it really holds the right image.
type session interface {
	pull(i *image) error
}

// clients are those of Debian, and crane: they are quick, and take part in every test.
var clients = []client{
	{
		name: "dockerd", programs: []string{"dockerd", "docker", "containerd", "runc"}, agent: "docker", resumes: true,
		start: func(t *testing.T, s *site, mirror string) session { return startDockerd(t, s, mirror) },
		// 20.10 knows no zstd, tells a mirror's answer from a registry's by nothing, and so tries the registry next.
		cannot: map[string]outcome{"zstd": leaves, "artifact": refuses, "chart": refuses},
	},
	{
		name: "ctr", programs: []string{"containerd", "ctr"}, agent: "containerd", resumes: true,
		start:  func(t *testing.T, s *site, mirror string) session { return startContainerd(t, s, mirror) },
		cannot: notUnpacked,
	},
	{name: "podman", programs: []string{"podman"}, agent: "containers", start: startPodman, cannot: notUnpacked},
	{name: "skopeo", programs: []string{"skopeo"}, agent: "skopeo", start: startSkopeo},
	{name: "crane", programs: []string{"crane"}, agent: "crane", start: startCrane},
}

// otherClients take part in TestControl and TestEveryClient only. Debian has no such versions of them: .ci/run installs them.
var otherClients = []client{
	{name: "buildah", programs: []string{"buildah"}, agent: "Buildah", start: startBuildah, cannot: notUnpacked},
	{
		name: "containerd2", programs: []string{installed("containerd"), installed("ctr")}, agent: "containerd", resumes: true,
		start: startContainerd2(""), describesAll: true,
	},
	{
		name: "containerd2, one layer by several ranges", programs: []string{installed("containerd"), installed("ctr")}, agent: "containerd", resumes: true,
		start: startContainerd2("concurrent_layer_fetch_buffer = 262144\n"), describesAll: true, byRanges: true,
	},
	{
		name: "buildkit", programs: []string{installed("buildkitd"), installed("buildctl"), "runc"}, agent: "buildkit", resumes: true,
		start: startBuildkit, cannot: notUnpacked,
	},
	{name: "regctl", programs: []string{installed("regctl")}, agent: "regclient", start: startRegctl, resumes: true},
	{
		name: "helm", programs: []string{installed("helm")}, agent: "Helm", start: startHelm,
		cannot: map[string]outcome{"single": ignores, "multi-arch": ignores, "zstd": ignores, "artifact": ignores},
	},
}

// outcome is what comes of a client's pull of something.
type outcome int

const (
	takes   outcome = iota // it holds what was pulled
	refuses                // it fails, and asks nobody else
	leaves                 // it fails, having tried the registry itself as well
	ignores                // it is not made for such things
)

// notUnpacked is for clients that have to make a root file system of what they pull.
var notUnpacked = map[string]outcome{"artifact": refuses, "chart": refuses}

// installed is where .ci/run puts a client that must not stand before the system's own in the path.
func installed(name string) string {
	dir := os.Getenv("TEST_E2E_CLIENTS")
	if dir == "" {
		dir = filepath.Join(build.Default.GOPATH, "bin", "hubcap-e2e")
	}
	return filepath.Join(dir, name)
}

// clientNamed is for tests that need one client.
func clientNamed(t *testing.T, name string) client {
	t.Helper()
	for _, c := range slices.Concat(clients, otherClients) {
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
	system bool // programs of containers/image read the system's configuration
}

func newTool(t *testing.T, s *site, mirror string) tool {
	t.Helper()
	return tool{site: s, dir: scratch(t), mirror: mirror}
}

func (c tool) path(name string) string { return filepath.Join(c.dir, name) }

// command is a program that trusts the stand-in and keeps its own files to its directory.
func (c tool) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = environment("SSL_CERT_FILE="+c.caFile, "HOME="+c.dir, "XDG_RUNTIME_DIR="+c.dir, "TMPDIR="+c.dir)
	if !c.system {
		cmd.Env = append(cmd.Env, "CONTAINERS_REGISTRIES_CONF="+c.path("registries.conf"))
	}
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
