package e2e

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The clients that are one program and no daemon.

type podman struct{ tool }

func startPodman(t *testing.T, s *site, mirror string) session {
	t.Helper()
	p := podman{newTool(t, s, mirror)}
	p.write(t, "registries.conf", p.setup(t, "podman"))
	return p
}

func (p podman) podman(args ...string) *exec.Cmd { return p.storing("podman", args...) }

// storing is a program with the storage of podman and buildah.
func (c tool) storing(name string, args ...string) *exec.Cmd {
	driver := "vfs"
	if overlayWorks(c.dir) {
		driver = "overlay"
	}
	return c.command(name, append([]string{"--root", c.path("root"), "--runroot", c.path("run"), "--storage-driver", driver}, args...)...)
}

func (p podman) pull(i *image) error {
	if _, err := run(p.ns, p.podman("pull", "--quiet", i.name())); err != nil {
		return err
	}
	return p.holds(i.root.Digest, p.podman("image", "inspect", "--format", "{{.RepoDigests}}", i.name()))
}

type buildah struct{ tool }

func startBuildah(t *testing.T, s *site, mirror string) session {
	t.Helper()
	b := buildah{newTool(t, s, mirror)}
	b.write(t, "registries.conf", b.setup(t, "buildah"))
	return b
}

func (b buildah) pull(i *image) error {
	if _, err := run(b.ns, b.storing("buildah", "pull", "--quiet", i.name())); err != nil {
		return err
	}
	return b.holds(i.child.Digest, b.storing("buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", i.name()))
}

type skopeo struct{ tool }

func startSkopeo(t *testing.T, s *site, mirror string) session {
	t.Helper()
	k := skopeo{newTool(t, s, mirror)}
	k.write(t, "registries.conf", k.setup(t, "skopeo"))
	return k
}

// pull copies into a directory, the one format that keeps manifest and blobs as they are.
func (k skopeo) pull(i *image) error {
	out := k.path("image")
	// Debian's skopeo does not look at $CONTAINERS_REGISTRIES_CONF.
	var conf []string
	if !k.system {
		conf = []string{"--registries-conf", k.path("registries.conf")}
	}
	if _, err := run(k.ns, k.command("skopeo", append(conf, "--insecure-policy", "copy", "--quiet", "docker://"+i.name(), "dir:"+out)...)); err != nil {
		return err
	}
	files := map[string]digest.Digest{"manifest.json": i.child.Digest}
	for _, blob := range i.pulled() {
		files[blob.Digest.Encoded()] = blob.Digest
	}
	return errors.Join(checkFiles(out, files), os.RemoveAll(out))
}

type crane struct {
	tool
	commands string // that pull exampleImage
}

func startCrane(t *testing.T, s *site, mirror string) session {
	t.Helper()
	c := crane{tool: newTool(t, s, mirror)}
	c.commands = cmp.Or(c.setup(t, "crane"), "crane pull "+exampleImage+" image.tar")
	return c
}

func (c crane) pull(i *image) error {
	out := c.path("image")
	commands := replaced(c.commands, "--format oci --platform linux/"+runtime.GOARCH, c.mirror+exampleImage, c.inBox(i), "image.tar", out)
	if _, err := run(c.ns, c.shell(commands)); err != nil {
		return err
	}
	return errors.Join(checkLayout(out, append(i.pulled(), i.child)), os.RemoveAll(out))
}

// regctl is told of a mirror like a daemon, and names the registry in its own way.
type regctl struct{ tool }

func startRegctl(t *testing.T, s *site, mirror string) session {
	t.Helper()
	r := regctl{newTool(t, s, mirror)}
	mustRun(t, r.ns, r.shell(r.setup(t, "regctl")))
	return r
}

func (r regctl) pull(i *image) error {
	out := r.path("image")
	args := []string{"image", "copy"}
	if i.root.Digest != i.child.Digest {
		args = append(args, "--platform", "linux/"+runtime.GOARCH)
	}
	if _, err := run(r.ns, r.command(installed("regctl"), append(args, i.name(), "ocidir://"+out+":x")...)); err != nil {
		return err
	}
	return errors.Join(checkLayout(out, append(i.pulled(), i.child)), os.RemoveAll(out))
}

// helm pulls charts, and nothing else.
type helm struct {
	tool
	commands string // that pull exampleChart
}

// straightHelm pulls from the registry that is part of a chart's name.
const straightHelm = "helm pull oci://" + exampleChart + " --version 1.2.3"

func startHelm(t *testing.T, s *site, mirror string) session {
	t.Helper()
	h := helm{tool: newTool(t, s, mirror)}
	h.commands = cmp.Or(h.setup(t, "helm"), straightHelm)
	return h
}

func (h helm) pull(i *image) error {
	from := h.inBox(i)
	if h.mirror == "" {
		from = strings.Replace(from, dockerHub, "registry-1.docker.io", 1)
	}
	return h.fetch(i, from)
}

// fetch pulls a chart by its whole name, and looks at what has come.
func (h helm) fetch(i *image, from string) error {
	out := h.path("chart")
	name, version, _ := cutLast(from, ":")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	commands := replaced(h.commands, "--destination "+out, h.mirror+exampleChart, name, exampleChart, name, "1.2.3", version)
	if _, err := run(h.ns, h.shell(commands)); err != nil {
		return err
	}
	file := path.Base(name) + "-" + version + ".tgz"
	return errors.Join(checkFiles(out, map[string]digest.Digest{file: i.pulled()[1].Digest}), os.RemoveAll(out))
}

func cutLast(s, sep string) (before, after string, found bool) {
	at := strings.LastIndex(s, sep)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(sep):], true
}

// checkLayout checks that an OCI layout holds what it should.
func checkLayout(dir string, want []ocispec.Descriptor) error {
	files := map[string]digest.Digest{}
	for _, each := range want {
		files[filepath.Join(ocispec.ImageBlobsDir, "sha256", each.Digest.Encoded())] = each.Digest
	}
	return checkFiles(dir, files)
}
