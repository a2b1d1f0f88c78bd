package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"

	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/testkit"
)

// airBox is a hubcap with its directory and its network.
type airBox struct {
	*hubcap
	ns  *namespace
	dir string
	s   *site
}

// run runs a command of hubcap, which must end with a code, and returns what it wrote.
func (b airBox) run(t *testing.T, code int, args ...string) string {
	t.Helper()
	cmd := exec.Command(testkit.Hubcap(t, ".."), args...)
	cmd.Env = environment("HUBCAP_DATA_DIR=" + b.dir)
	out, err := run(b.ns, cmd)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("hubcap %s: exit code %d, want %d\n%s%v", strings.Join(args, " "), got, code, out, err)
	}
	return out
}

// forget purges everything.
func (b airBox) forget(t *testing.T) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(b.dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+admin+"/api/v1/purge", strings.NewReader(`{"repository":"**"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := b.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("purge: %s", response.Status)
	}
}

// names returns the digest of a tag at the mirror port.
func (b airBox) names(i *image) digest.Digest {
	response, err := b.http.Head("http://" + mirror + manifestPath(i))
	if err != nil {
		return ""
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return ""
	}
	return digest.Digest(response.Header.Get("Docker-Content-Digest"))
}

// newAirBox starts a box in front of a stand-in that has images; they are the way to
// the outside of what is then carried.
func newAirBox(t *testing.T, images ...*image) airBox {
	t.Helper()
	s, dir := newSite(t, images...), scratch(t)
	return airBox{s.startHubcap(t, dir), s.ns, dir, s}
}

// newOfflineBox starts a box without a way to the outside.
func newOfflineBox(t *testing.T) airBox {
	t.Helper()
	ns, dir := newNamespace(t), scratch(t)
	return airBox{startHubcap(t, ns, dir, "HUBCAP_OFFLINE=true", "HUBCAP_UPSTREAM_0_HOST="+dockerHub), ns, dir, nil}
}

// bundles are what hubcap writes of two images.
type bundles struct{ several, one, sparse, docker, dir, ownDir string }

// ociImage is of one platform, in the format of OCI.
func ociImage(repository string) *image {
	i := newImage(repository, "1.0")
	i.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerGzip, threeLayers(repository))
	return i
}

// TestBundleIsRead has the programs of deploy/docs/airgap.md read what hubcap exports,
// and refuse what the table there says that they refuse.
func TestBundleIsRead(t *testing.T) {
	need(t, "skopeo", "podman", "ctr", "crane", installed("ctr"), installed("regctl"))
	multi, single, docker := multiArchImage(), ociImage("library/single"), singleImage("library/docker")
	b := newAirBox(t, multi, single, docker)
	out := scratch(t)
	at := func(name string) string { return filepath.Join(out, name) }
	f := bundles{at("several.tar"), at("one.tar"), at("sparse.tar"), at("docker.tar"), at("dir"), at("own")}
	own := "linux/" + runtime.GOARCH
	b.run(t, 0, "export", multi.name(), single.name(), "--platform", "all", "-o", f.several)
	b.run(t, 0, "export", multi.name(), "--platform", "all", "-o", f.one)
	b.run(t, 0, "export", multi.name(), "--platform", own, "-o", f.sparse)
	b.run(t, 0, "export", docker.name(), "-o", f.docker)
	b.run(t, 0, "export", multi.name(), "--platform", "all", "--dir", f.dir)
	b.run(t, 0, "export", single.name(), "--dir", f.ownDir)

	k, p := skopeo{newTool(t, b.s, "")}, podman{newTool(t, b.s, "")}
	p.write(t, "registries.conf", "")
	k.write(t, "registries.conf", "")
	copyTo := func(file, name string, more ...string) error {
		dir, from := filepath.Join(scratch(t), "image"), "oci-archive:"+file
		if name != "" {
			from += ":" + name
		}
		_, err := run(k.ns, k.command("skopeo", append(append([]string{"--insecure-policy", "copy", "--quiet"}, more...), from, "dir:"+dir)...))
		return err
	}
	pulled := func(file string, i *image) error {
		if _, err := run(p.ns, p.podman("pull", "--quiet", "oci-archive:"+file+":"+i.name())); err != nil {
			return err
		}
		_, err := run(p.ns, p.podman("image", "exists", i.name()))
		return err
	}
	loaded := func(file string, i *image) error {
		_, _ = run(p.ns, p.podman("rmi", "--all", "--force"))
		if _, err := run(p.ns, p.podman("load", "--quiet", "--input", file)); err != nil {
			return err
		}
		_, err := run(p.ns, p.podman("image", "exists", i.name()))
		return err
	}
	old := startContainerd(t, b.s, "")
	later := startContainerd2("")(t, b.s, "").(containerd)
	imported := func(c containerd, file string, images ...*image) error {
		if _, err := run(c.ns, c.ctr("images", "import", "--snapshotter", c.snapshotter(), file)); err != nil {
			return err
		}
		var all error
		for _, i := range images {
			all = errors.Join(all, c.holds(i.root.Digest, c.ctr("images", "ls", "name=="+i.name())))
			_, err := run(c.ns, c.ctr("images", "rm", "--sync", i.name()))
			all = errors.Join(all, err)
		}
		return all
	}
	r := regctl{newTool(t, b.s, "")}
	regImported := func(file string, i *image) error {
		dir := filepath.Join(scratch(t), "image")
		if _, err := run(r.ns, r.command(installed("regctl"), "image", "import", "--name", i.name(), "ocidir://"+dir+":x", file)); err != nil {
			return err
		}
		return checkLayout(dir, append(i.pulled(), i.child))
	}
	c := crane{tool: newTool(t, b.s, "")}
	const registry = "127.0.0.1:5999"
	serving := startDaemon(t, b.ns, "crane registry", c.command("crane", "registry", "serve", "--address", registry))
	serving.waitReady(t, func() bool { return b.statusAt(registry, "/v2/") == http.StatusOK })
	pushed := func(layout string, more ...string) error {
		_, err := run(c.ns, c.command("crane", append(append([]string{"push"}, more...), layout, registry+"/x/y:1")...))
		return err
	}

	for _, row := range []struct {
		name  string
		reads bool
		do    func() error
	}{
		{"skopeo, several, by name", true, func() error { return copyTo(f.several, single.name()) }},
		{"skopeo, several, an index by name", true, func() error { return copyTo(f.several, multi.name()) }},
		{"skopeo, several, all platforms", true, func() error { return copyTo(f.several, multi.name(), "--all") }},
		{"skopeo, one, without a name", true, func() error { return copyTo(f.one, "") }},
		{"skopeo, sparse", true, func() error { return copyTo(f.sparse, multi.name()) }},
		{"skopeo, sparse, all platforms", false, func() error { return copyTo(f.sparse, multi.name(), "--all") }},
		{"skopeo, Docker's format, by name", false, func() error { return copyTo(f.docker, docker.name()) }}, // it looks for OCI's alone
		{"skopeo, Docker's format, without a name", true, func() error { return copyTo(f.docker, "") }},
		{"podman load, Docker's format", true, func() error { return loaded(f.docker, docker) }},
		{"ctr 1.6, Docker's format", true, func() error { return imported(old, f.docker, docker) }},
		{"ctr 2, Docker's format", true, func() error { return imported(later, f.docker, docker) }},
		{"regctl, Docker's format", true, func() error { return regImported(f.docker, docker) }},
		{"podman pull, several", true, func() error { return pulled(f.several, single) }},
		{"podman pull, sparse", true, func() error { return pulled(f.sparse, multi) }},
		{"podman load, several", false, func() error { return loaded(f.several, multi) }},
		{"podman load, one", true, func() error { return loaded(f.one, multi) }},
		{"podman load, sparse", true, func() error { return loaded(f.sparse, multi) }},
		{"ctr 1.6, several", true, func() error { return imported(old, f.several, multi, single) }},
		{"ctr 1.6, one", true, func() error { return imported(old, f.one, multi) }},
		{"ctr 1.6, sparse", true, func() error { return imported(old, f.sparse, multi) }},
		{"ctr 2, several", true, func() error { return imported(later, f.several, multi, single) }},
		{"ctr 2, one", true, func() error { return imported(later, f.one, multi) }},
		{"ctr 2, sparse", true, func() error { return imported(later, f.sparse, multi) }},
		{"regctl, several", true, func() error { return regImported(f.several, single) }},
		{"regctl, one", true, func() error { return regImported(f.one, multi) }},
		{"regctl, sparse", false, func() error { return regImported(f.sparse, multi) }},
		{"crane, one, unpacked", true, func() error { return pushed(f.dir, "--index") }},
		{"crane, an image, unpacked", true, func() error { return pushed(f.ownDir) }},
		{"crane, a tar", false, func() error { return pushed(f.one) }},
	} {
		if err := row.do(); (err == nil) != row.reads {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// TestBundleIsTaken has the programs of deploy/docs/airgap.md write images that they
// have pulled through a box, and a box that is offline take them in.
func TestBundleIsTaken(t *testing.T) {
	need(t, "skopeo", "podman", "ctr", "crane", "dockerd", "docker", installed("ctr"), installed("regctl"))
	multi, single, docker := multiArchImage(), ociImage("library/single"), singleImage("library/docker")
	b := newAirBox(t, multi, single, docker)
	to := newOfflineBox(t)
	out := scratch(t)
	at := func(name string) string { return filepath.Join(out, name) }
	own := "linux/" + runtime.GOARCH

	k := startSkopeo(t, b.s, mirror).(skopeo)
	p := startPodman(t, b.s, mirror).(podman)
	c := startCrane(t, b.s, "").(crane)
	r := startRegctl(t, b.s, mirror).(regctl)
	d := startDockerd(t, b.s, mirror)
	old := startContainerd(t, b.s, mirror)
	later := startContainerd2("")(t, b.s, mirror).(containerd)
	mustPull(t, p, single)
	mustPull(t, d, docker)
	mustPull(t, old, multi)
	mustPull(t, later, multi)
	conf := []string{"--registries-conf", k.path("registries.conf"), "--insecure-policy", "copy", "--quiet"}
	for _, row := range []struct {
		name  string
		make  *exec.Cmd
		ns    *namespace
		file  string
		flags []string
		image *image
		same  bool // the digest is the registry's
	}{
		{"skopeo", k.command("skopeo", append(conf, "docker://"+single.name(), "oci-archive:"+at("skopeo.tar")+":latest")...), k.ns, "skopeo.tar", []string{"--as", single.name()}, single, true},
		{"skopeo, all platforms", k.command("skopeo", append(conf, "--all", "docker://"+multi.name(), "oci-archive:"+at("all.tar")+":"+multi.name())...), k.ns, "all.tar", nil, multi, true},
		{"skopeo, a directory", k.command("skopeo", append(conf, "docker://"+single.name(), "oci:"+at("oci")+":"+single.name())...), k.ns, "oci", nil, single, true},
		{"podman, a layout", p.podman("save", "--quiet", "--format", "oci-archive", "-o", at("podman.tar"), single.name()), p.ns, "podman.tar", nil, single, false},
		{"podman, docker's format", p.podman("save", "--quiet", "--format", "docker-archive", "-o", at("podman-docker.tar"), single.name()), p.ns, "podman-docker.tar", []string{"--force"}, single, false},
		{"docker", d.docker("save", "-o", at("docker.tar"), docker.name()), d.ns, "docker.tar", []string{"--force", "--as", docker.name()}, docker, false},
		{"ctr 1.6", old.ctr("images", "export", "--platform", own, at("ctr1.tar"), multi.name()), old.ns, "ctr1.tar", nil, multi, true},
		{"ctr 2", later.ctr("images", "export", "--platform", own, at("ctr2.tar"), multi.name()), later.ns, "ctr2.tar", nil, multi, true},
		{"regctl", r.command(installed("regctl"), "image", "export", multi.name(), at("regctl.tar")), r.ns, "regctl.tar", []string{"--as", multi.name()}, multi, true},
		{"crane", c.command("crane", "pull", "--format", "oci", "--insecure", mirror+"/"+single.path(), at("crane")), c.ns, "crane", []string{"--as", single.name()}, single, true},
		{"crane, docker's format", c.command("crane", "pull", "--insecure", mirror+"/"+docker.path(), at("crane.tar")), c.ns, "crane.tar", []string{"--force", "--as", docker.name()}, docker, true}, // it keeps the layers as they are,
	} {
		t.Run(row.name, func(t *testing.T) {
			if out, err := run(row.ns, row.make); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			if len(row.flags) > 0 && row.flags[0] == "--force" {
				to.run(t, 3, append([]string{"import", at(row.file)}, row.flags[1:]...)...)
			}
			told := to.run(t, 0, append([]string{"import", "--json", at(row.file)}, row.flags...)...)
			var got struct {
				Images []struct{ Ref, Digest string }
			}
			if err := json.Unmarshal([]byte(told), &got); err != nil || len(got.Images) != 1 || got.Images[0].Ref != row.image.name() {
				t.Fatalf("%v %s", err, told)
			}
			if named := to.names(row.image); named.String() != got.Images[0].Digest || row.same != (named == row.image.root.Digest) {
				t.Errorf("the tag names %s: %s", named, told)
			}
			s := skopeo{tool{site: &site{ns: to.ns}, dir: scratch(t)}}
			s.write(t, "registries.conf", "")
			if _, err := run(to.ns, s.command("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://"+mirror+"/"+row.image.path(), "dir:"+filepath.Join(s.dir, "image"))); err != nil {
				t.Errorf("it cannot be pulled: %v", err)
			}
			to.forget(t)
		})
	}
}
