package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"hubcap/e2e/testkit"
)

// TestRelease makes what is released for this machine's architecture, and uses it.
func TestRelease(t *testing.T) {
	need(t, "bash", "git", "tar", "crane", installed("nfpm"), installed("cyclonedx-gomod"))
	dir, again := scratch(t), scratch(t)
	steps := []string{"binary", "packages", "sbom", "image", "sums"}
	released(t, dir, runtime.GOARCH, steps...)
	one := func(suffix string) string {
		found, _ := filepath.Glob(filepath.Join(dir, "*"+suffix))
		if len(found) != 1 {
			t.Fatalf("files *%s: %q", suffix, found)
		}
		return found[0]
	}
	t.Run("lintian", func(t *testing.T) { lintian(t, one(".deb")) })
	t.Run("deb", func(t *testing.T) { debOnDebian(t, one(".deb")) })
	t.Run("rpm", func(t *testing.T) { rpmOnDebian(t, one(".rpm")) })
	t.Run("sbom", func(t *testing.T) { billOfMaterials(t, one(".cdx.json")) })
	t.Run("reproducible", func(t *testing.T) {
		released(t, again, runtime.GOARCH, steps...)
		first, second := sums(t, dir), sums(t, again)
		if len(strings.Fields(first)) != 2*5 || first != second {
			t.Errorf("built in two directories:\n%s\n%s", first, second)
		}
	})
	t.Run("image", func(t *testing.T) { imageOfTwo(t, dir) })
}

// released runs steps of deploy/release/release.sh, which builds in a directory of
// its own each time.
func released(t *testing.T, out, architectures string, steps ...string) {
	t.Helper()
	cmd := exec.Command("../deploy/release/release.sh", append([]string{out}, steps...)...)
	cmd.Env = append(os.Environ(), "ARCHES="+architectures)
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("release.sh %q: %v\n%s", steps, err, tail(log))
	}
}

// sums are the lines of SHA256SUMS, which are right.
func sums(t *testing.T, dir string) string {
	t.Helper()
	check := exec.Command("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(content(t, filepath.Join(dir, "SHA256SUMS")))
}

func billOfMaterials(t *testing.T, file string) {
	var bom struct {
		BOMFormat  string
		Metadata   struct{ Component struct{ Name string } }
		Components []struct{ Name, Version string }
	}
	mustUnmarshal(content(t, file), &bom)
	var names []string
	for _, c := range bom.Components {
		names = append(names, c.Name)
	}
	if bom.BOMFormat != "CycloneDX" || bom.Metadata.Component.Name != "hubcap" || !slices.Contains(names, "std") || !slices.Contains(names, "github.com/dgraph-io/badger/v4") {
		t.Errorf("%s of %s: %q", bom.BOMFormat, bom.Metadata.Component.Name, names)
	}
}

// imageOfTwo makes an image of two architectures. The other architecture's
// program is this one's here: to compile it takes a minute.
func imageOfTwo(t *testing.T, dir string) {
	need(t, "skopeo", "tar")
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	if err := os.Link(filepath.Join(dir, "hubcap-linux-"+runtime.GOARCH), filepath.Join(dir, "hubcap-linux-"+other)); err != nil {
		t.Fatal(err)
	}
	released(t, dir, runtime.GOARCH+" "+other, "image")
	archive := "oci-archive:" + filepath.Join(dir, "hubcap-image.oci.tar")
	var index struct{ Manifests []map[string]any }
	raw, err := exec.Command("skopeo", "inspect", "--raw", archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	mustUnmarshal(raw, &index)
	if len(index.Manifests) != 2 || index.Manifests[0]["artifactType"] != nil {
		t.Errorf("the index is %s", raw)
	}
	for _, architecture := range []string{other, runtime.GOARCH} {
		copied := filepath.Join(scratch(t), "copied")
		if out, err := exec.Command("skopeo", "--override-arch", architecture, "copy", archive, "dir:"+copied).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", architecture, err, out)
		}
		var manifest struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		file := func(digest string) string { return filepath.Join(copied, strings.TrimPrefix(digest, "sha256:")) }
		mustUnmarshal(content(t, file("manifest.json")), &manifest)
		imageConfig(t, architecture, content(t, file(manifest.Config.Digest)))
		if len(manifest.Layers) != 1 {
			t.Fatalf("%d layers", len(manifest.Layers))
		}
		if architecture == runtime.GOARCH {
			runs(t, file(manifest.Layers[0].Digest))
		}
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// imageConfig holds the image's configuration against the Dockerfile, which
// deploy/deploy_test.go holds against hubcap.
func imageConfig(t *testing.T, architecture string, config []byte) {
	t.Helper()
	var got struct {
		Architecture string
		Config       struct {
			User                  string
			Env, Entrypoint       []string
			ExposedPorts, Volumes map[string]struct{}
			Healthcheck           struct{ Test []string }
			Labels                map[string]string
		}
	}
	mustUnmarshal(config, &got)
	file := string(content(t, "../Dockerfile"))
	c, here := got.Config, struct{}{}
	for _, line := range []string{
		"USER " + c.User, "ENV " + strings.Join(c.Env, " "), `ENTRYPOINT ["` + strings.Join(c.Entrypoint, `", "`) + `"]`,
		` CMD ["` + strings.Join(c.Healthcheck.Test[1:], `", "`) + `"]`, "EXPOSE 5000 5001", "VOLUME /data",
		`description="` + c.Labels["org.opencontainers.image.description"] + `"`, `licenses="` + c.Labels["org.opencontainers.image.licenses"] + `"`,
	} {
		if !strings.Contains(file, line+"\n") && !strings.Contains(file, line+" \\\n") {
			t.Errorf("the image has %q, the Dockerfile has not", line)
		}
	}
	if got.Architecture != architecture || !reflect.DeepEqual(c.Volumes, map[string]struct{}{"/data": here}) ||
		!reflect.DeepEqual(c.ExposedPorts, map[string]struct{}{"5000/tcp": here, "5001/tcp": here}) || c.Labels["org.opencontainers.image.version"] == "" {
		t.Errorf("the configuration of %s is %s", architecture, config)
	}
}

// runs unpacks the layer of an image and runs what is in it, with nothing else
// around it.
func runs(t *testing.T, layer string) {
	t.Helper()
	if os.Getuid() != 0 {
		testkit.Missing(t, "a root file system needs root")
	}
	root := filepath.Join(scratch(t), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", root, "-xzf", layer).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := machine{t, root}
	version := m.command("/hubcap", "version")
	version.SysProcAttr.Credential = &syscall.Credential{Uid: 65532, Gid: 65532}
	if out, err := version.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "v") {
		t.Errorf("hubcap version: %s, %v", out, err)
	}
	data, err := os.Stat(filepath.Join(root, "data"))
	if err != nil || data.Sys().(*syscall.Stat_t).Uid != 65532 || !m.has("etc/ssl/certs/ca-certificates.crt") {
		t.Errorf("/data: %v, %v", data, err)
	}
}
