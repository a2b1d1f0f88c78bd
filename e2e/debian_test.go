package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"hubcap/e2e/testkit"
)

// debianRecipe names the image in the cache. Change it with anything below that changes the image.
const debianRecipe = "debian-bookworm-1"

// debianMinimum is what makes the image worth pulling.
const debianMinimum = 100 << 20

// debianSteps build the image, a layer each, in a root file system at $ROOT.
var debianSteps = []struct{ name, script string }{
	{"base system", `debootstrap --variant=minbase bookworm "$ROOT" "$MIRROR"`},
	{"python", `chroot "$ROOT" apt-get update && chroot "$ROOT" apt-get install -y --no-install-recommends python3`},
	{"git", `chroot "$ROOT" apt-get install -y --no-install-recommends git ca-certificates`},
	{"our mark", `echo "made from Debian for hubcap" >"$ROOT/etc/hubcap-e2e"`},
}

// debianMark is what the last step leaves in the image.
const debianMark = "made from Debian for hubcap"

// notInLayers are what a step leaves behind that is no part of the image.
var notInLayers = []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/cache/", "var/lib/apt/lists/", "var/log/", "etc/resolv.conf", "etc/hostname"}

// debianImage is an image made from Debian itself, below an index. It is built once a machine and kept as an OCI layout.
func debianImage(t *testing.T) *image {
	t.Helper()
	layout := filepath.Join(debianCache(t), debianRecipe)
	unlock := lockFile(t, layout+".lock")
	defer unlock()
	if _, err := os.Stat(layout); err != nil {
		buildDebian(t, layout)
	}
	i := readLayout(t, layout, "library/debian", "bookworm")
	var size int64
	for _, blob := range i.pulled() {
		size += blob.Size
	}
	if size < debianMinimum || len(i.pulled()) < 4 {
		t.Fatalf("the Debian image has %d bytes in %d blobs: too small to prove anything", size, len(i.pulled()))
	}
	i.addIndex(i.child)
	return i
}

func debianCache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TEST_E2E_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(user, "hubcap-e2e")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lockFile keeps two test runs from building the image at the same time.
func lockFile(t *testing.T, path string) (unlock func()) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = file.Close() }
}

// buildDebian runs the steps and writes what each has changed as a layer. The layout appears under its name when it is whole.
func buildDebian(t *testing.T, layout string) {
	t.Helper()
	need(t, "debootstrap", "chroot", "tar", "apt-get")
	if os.Getuid() != 0 {
		testkit.Missing(t, "debootstrap needs root")
	}
	started := time.Now()
	mirror := debianMirror(t)
	root, building := filepath.Join(scratch(t), "root"), layout+".building"
	if err := os.RemoveAll(building); err != nil {
		t.Fatal(err)
	}
	w := &layoutWriter{dir: building}
	var before map[string]stamp
	for _, step := range debianSteps {
		runDebianStep(t, step.name, step.script, root, mirror)
		after := stamps(t, root)
		w.addLayer(t, root, changed(before, after))
		before = after
	}
	w.finish(t)
	if err := os.Rename(building, layout); err != nil {
		t.Fatal(err)
	}
	t.Logf("built the Debian image in %v", time.Since(started).Round(time.Second))
}

// debianMirror is the mirror that this machine's apt is set up with.
func debianMirror(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `. /etc/os-release; echo "$ID $VERSION_CODENAME"; apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages'`).Output()
	if err != nil {
		testkit.Missing(t, "apt knows no mirror: %v", err)
	}
	lines := strings.Split(string(out), "\n")
	id, codename, _ := strings.Cut(lines[0], " ")
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if id == "debian" && len(fields) == 3 && fields[0] == codename && fields[1] == "main" {
			return fields[2]
		}
	}
	testkit.Missing(t, "this is no Debian with a mirror in its apt configuration")
	return ""
}

// runDebianStep runs a step with mounts of its own, so that nothing that it mounts can stay.
func runDebianStep(t *testing.T, name, script, root, mirror string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Env = append(os.Environ(), "ROOT="+root, "MIRROR="+mirror, "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("Debian image, %s: %v\n%s", name, err, tail(out))
	}
}

// stamp tells whether a file was touched: the kernel moves ctime with everything.
type stamp struct {
	inode uint64
	ctime syscall.Timespec
}

func stamps(t *testing.T, root string) map[string]stamp {
	t.Helper()
	found := map[string]stamp{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		info, err := entry.Info()
		if err != nil || name == "" || leftOut(name) {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		found[name] = stamp{stat.Ino, stat.Ctim}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func leftOut(name string) bool {
	for _, each := range notInLayers {
		if strings.HasPrefix(name, each) {
			return true
		}
	}
	return false
}

// changed are the files that are new or were touched. Removed ones are not looked for: installing packages removes nothing that matters.
func changed(before, after map[string]stamp) []string {
	var names []string
	for name, stamp := range after {
		if before[name] != stamp {
			names = append(names, name)
		}
	}
	return names
}

// layoutWriter writes an OCI layout of one image.
type layoutWriter struct {
	dir     string
	layers  []ocispec.Descriptor
	diffIDs []digest.Digest
}

// addLayer packs the named files of root. GNU tar knows how to keep hard links and owners.
func (w *layoutWriter) addLayer(t *testing.T, root string, names []string) {
	t.Helper()
	var packed bytes.Buffer
	diff := digest.Canonical.Digester()
	zip := gzip.NewWriter(&packed)
	pack := exec.Command("tar", "-C", root, "--null", "--no-recursion", "--numeric-owner", "--sort=name", "--files-from=-", "-cf", "-")
	pack.Stdin = strings.NewReader(strings.Join(names, "\x00"))
	pack.Stdout = io.MultiWriter(zip, diff.Hash())
	pack.Stderr = os.Stderr
	if err := pack.Run(); err != nil {
		t.Fatalf("tar: %v", err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	w.diffIDs = append(w.diffIDs, diff.Digest())
	w.layers = append(w.layers, w.addBlob(t, ocispec.MediaTypeImageLayerGzip, packed.Bytes()))
}

func (w *layoutWriter) addBlob(t *testing.T, mediaType string, content []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(content)
	w.write(t, filepath.Join(ocispec.ImageBlobsDir, "sha256", d.Encoded()), content)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// finish writes config, manifest and index.
func (w *layoutWriter) finish(t *testing.T) {
	t.Helper()
	created := time.Now().UTC()
	config := w.addBlob(t, ocispec.MediaTypeImageConfig, mustMarshal(ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Cmd: []string{"/bin/bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: w.diffIDs},
	}))
	manifest := w.addBlob(t, ocispec.MediaTypeImageManifest, mustMarshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    w.layers,
	}))
	w.write(t, ocispec.ImageIndexFile, mustMarshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{manifest},
	}))
	w.write(t, ocispec.ImageLayoutFile, mustMarshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
}

func (w *layoutWriter) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// readLayout reads an OCI layout of one image, and trusts no byte of it.
func readLayout(t *testing.T, dir, repository, tag string) *image {
	t.Helper()
	var index ocispec.Index
	content, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err == nil {
		err = json.Unmarshal(content, &index)
	}
	if err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%s: %v, %d manifests; remove it and run again", dir, err, len(index.Manifests))
	}
	i := newImage(repository, tag)
	i.root = index.Manifests[0]
	i.child = i.root
	i.manifests[i.root.Digest] = manifestFile{i.root.MediaType, readLayoutBlob(t, dir, i.root)}
	for _, blob := range i.pulled() {
		i.blobs[blob.Digest] = readLayoutBlob(t, dir, blob)
	}
	return i
}

func readLayoutBlob(t *testing.T, dir string, blob ocispec.Descriptor) []byte {
	t.Helper()
	path := filepath.Join(dir, ocispec.ImageBlobsDir, "sha256", blob.Digest.Encoded())
	content, err := os.ReadFile(path)
	if err == nil && digest.FromBytes(content) != blob.Digest {
		err = fmt.Errorf("%s has other content; remove %s and run again", path, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestDebianImage builds the image before the tests that pull it, so that none of them is charged with the time.
func TestDebianImage(t *testing.T) {
	need(t)
	for _, blob := range debianImage(t).pulled() {
		t.Logf("%s %.1f MB", blob.Digest.Encoded()[:12], float64(blob.Size)/1e6)
	}
}
