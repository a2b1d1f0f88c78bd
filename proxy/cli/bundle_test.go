package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
)

// TestBundle carries images from one hubcap to another, as files, directories and
// streams.
func TestBundle(t *testing.T) {
	from, to := start(t), start(t, "HUBCAP_OFFLINE=true")
	image := from.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	from.Hub.Image("library/demo", "v2", fakehub.RandomBlob(1, 1_000_000), fakehub.RandomBlob(2, 10_000))
	dir := t.TempDir()
	file, layout, each := filepath.Join(dir, "a.tar"), filepath.Join(dir, "layout"), filepath.Join(dir, "each")

	from.wants(Done, "export demo:v1 -o "+file+" --dry-run", "1 object, at least .*fetched")
	if _, err := os.Stat(file); err == nil {
		t.Error("a dry run wrote the file")
	}
	from.wants(Done, "export demo:v1 -o "+file, `a.tar  1.0 MB  demo:v1\n(.|\n)*demo:v1  fetched  1.0 MB`)
	from.wants(Done, "export demo:v1 -o "+file+" --dry-run", `1 image, 3 objects, 1.0 MB`)
	from.wants(Done, "export demo:v1 --dir "+layout, "layout  1.0 MB")
	from.wants(Failed, "export demo:v1 --dir "+layout, "not empty")
	from.wants(Done, "export demo:v1 demo:v2 --each -o "+each, `demo_v1.tar .*\n.*demo_v2.tar`)
	from.wants(Failed, "export demo:none -o "+file, "demo:none")
	from.wants(Usage, "export demo:v1", "one of -o FILE and --dir DIR")
	from.wants(Usage, "export demo:v1 demo:v2 --each -o -", "several files")
	stream := from.run("export demo:v1 -o -")
	whole, err := os.ReadFile(file)
	if err != nil || stream.code != Done || stream.out != string(whole) {
		t.Errorf("the stream has %d bytes, the file %d: %s", len(stream.out), len(whole), stream.errs)
	}

	to.wants(Failed, "import "+filepath.Join(dir, "none"), "no such file")
	to.wants(Done, "import "+file+" --dry-run", `docker.io/library/demo:v1 .*would be imported\n1 of 1 image; 3 objects, 1.0 MB, would be brought`)
	to.wants(Done, "import "+file, `docker.io/library/demo:v1 .*imported\n1 of 1 image; 3 objects, 1.0 MB, brought; 0 were held`)
	if got := to.names(); got != image.Manifest.Digest.String() {
		t.Errorf("it is %q", got)
	}
	to.wants(Done, "history demo:v1", "following|served")
	to.wants(Done, "import "+layout, "0 objects, 0 B, brought; 3 were held")
	to.wants(Failed, "import "+filepath.Join(dir, "each"), "no OCI image layout")
	if r := runWith(t.Context(), Options{Environ: to.environ, Stdin: bytes.NewReader(whole)}, "import", "-", "--as", "ghcr.io/acme/app:v9", "--json"); r.code != Done || !strings.Contains(r.out, `"ref": "ghcr.io/acme/app:v9"`) {
		t.Errorf("%+v", r)
	}
	if r := runWith(t.Context(), Options{Environ: to.environ, Stdin: bytes.NewReader(whole[:len(whole)/2])}, "import", "-"); r.code != Failed || !strings.Contains(r.errs, "broke off") {
		t.Errorf("%+v", r)
	}
	to.wants(Done, "jobs", `import +done(.|\n)*import +failed|import +failed(.|\n)*import +done`)

	held := to.run("holdings --json")
	var h api.Holdings
	if err := json.Unmarshal([]byte(held.out), &h); err != nil || len(h.Digests) != 3 {
		t.Errorf("%v %+v", err, held)
	}
	list := filepath.Join(dir, "holdings.json")
	if err := os.WriteFile(list, []byte(held.out), 0o600); err != nil {
		t.Fatal(err)
	}
	from.wants(Done, "export demo:v2 --not-in "+list+" -o "+file, `a.tar  16 kB`)
	from.wants(Usage, "export demo:v2 -o "+file+" --not-in "+file, "holdings --json")
	to.wants(Done, "import "+file, "3 objects, 1. kB, brought")
	other := start(t, "HUBCAP_OFFLINE=true")
	other.wants(InPart, "import "+file, "demo:v2 .*not imported: it is not whole: sha256:(.|\n)*0 of 1 image")
	other.wants(InPart, "import --partial "+file, "demo:v2 .*imported in part")
}
