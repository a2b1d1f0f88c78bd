package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/units"
)

// wants runs a command line and checks its exit code and a pattern of its output.
func (h *hubcap) wants(code int, line, pattern string) {
	h.T.Helper()
	r := h.run(line)
	if r.code != code || !regexp.MustCompile(pattern).MatchString(r.out+r.errs) {
		h.T.Errorf("hubcap %s: exit code %d, want %d, and %q\n%s%s", line, r.code, code, pattern, r.out, r.errs)
	}
}

// names returns the digest that library/demo:v1 has for clients.
func (h *hubcap) names() string {
	h.T.Helper()
	resp, err := http.Head("http://" + h.Mirror + "/v2/library/demo/manifests/v1")
	if err != nil {
		h.T.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("Docker-Content-Digest")
}

func TestWarm(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	h.Hub.Image("library/demo", "v2", fakehub.RandomBlob(2, 1_000_000))
	h.wants(Done, "warm demo:v1 --dry-run", `1 object, at least \d+ B, is fetched; that takes at least 1 pull`)
	h.wants(Done, "warm demo:v1", `docker.io/library/demo:v1  fetched  1.0 MB\n1 of 1, 1.0 MB; 1 pull of docker.io used, 99 left`)
	h.wants(Done, "images", `library/demo:v1 +- +1.0 MB +never +0 +fresh`)
	h.wants(Done, "history demo:v1", ` +warm +served\n`)
	h.wants(Done, "warm demo:v1", "held already(.|\n)*All of it is held")
	h.wants(InPart, "warm demo:v1 demo:gone", "demo:gone +failed: manifest unknown at docker.io(.|\n)*1 of 2")
	h.wants(Failed, "warm demo:gone", "warm failed: ")
	h.wants(Usage, "warm", "usage: hubcap warm REF")
	h.wants(Usage, "warm NGINX", "NGINX")
	file := filepath.Join(t.TempDir(), "images.txt")
	if err := os.WriteFile(file, []byte("# two images\ndemo:v1 # held\n\ndemo:v2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.wants(Done, "warm --from-file "+file+" --platform linux/amd64", "2 of 2")
	h.wants(Done, "jobs", `warm +done`)
	h.wants(Failed, "cancel none", "no such job")
	h.wants(Done, "warm demo:v1 --every 1d", "1 image every 24 h; hubcap schedules --delete 1")
	h.wants(Usage, "warm demo:v1 --every 1", "invalid argument")
	h.wants(Done, "schedules", `1 +24 h`)
	h.wants(Done, "schedules --delete 1", "Nothing is fetched regularly")
}

func TestEvict(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 2_000_000))
	h.pull()
	h.wants(Usage, "evict", "usage: hubcap evict --bytes SIZE")
	h.wants(Usage, "evict --bytes some", "want a size")
	h.wants(Done, "evict --dry-run --bytes 1MB", `^1  2.0 MB  layer sha256:[0-9a-f]{12} of docker.io/library/demo:v1  unused \d s
2.0 MB in 1 object would go; 1 image would no longer survive an outage.\n$`)
	h.wants(Done, "evict --dry-run --bytes 1MB --json", `"kind": "layer"`)
	h.wants(Done, "evict --bytes 1MB", `^2.0 MB in 1 object went.\n2.0 MB in 1 object goes; 1 image will no longer survive an outage.\n$`)
	h.wants(Done, "evict --dry-run --bytes 1MB", `^0 B in 0 objects would go`)
}

// TestWarmAsJSON: every line is the job at a moment, the last one as it ended.
func TestWarmAsJSON(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	r := h.run("warm demo:v1 --json")
	var j api.Job
	for line := range strings.Lines(r.out) {
		j = api.Job{}
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	if j.State != "done" || r.code != Done {
		t.Errorf("%+v", r)
	}
	detached := h.run("warm demo:v1 --detach")
	if id := strings.TrimSpace(detached.out); detached.code != Done || !strings.Contains(h.run("jobs").out, id) {
		t.Errorf("%+v", detached)
	}
}

// TestTags freezes a tag, rolls it back and thaws it.
func TestTags(t *testing.T) {
	h := start(t, "HUBCAP_TAG_TTL=1ms")
	first := h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000)).Manifest.Digest.String()
	h.pull()
	second := h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(2, 1000)).Manifest.Digest.String()
	h.pull()
	h.wants(NoImage, "history demo:v2", "this tag was not pulled here")
	h.wants(Done, "history demo:v1", units.Digest(second)+".*served\n.*"+units.Digest(first)+"(.|\n)*following")
	h.wants(Done, "rollback demo:v1 --dry-run", "demo:v1 is "+units.Digest(second)+" and becomes "+units.Digest(first)+". All of it is held")
	if got := h.names(); got != second {
		t.Errorf("after a dry run it is %s", got)
	}
	h.wants(Done, "rollback demo:v1 --note broken", "demo:v1 is "+units.Digest(first)+": frozen since .* by .*: broken; "+units.Digest(second)+" at the registry")
	if got := h.names(); got != first {
		t.Errorf("after the rollback it is %s", got)
	}
	h.wants(Done, "history", "demo:v1 +"+units.Digest(first)+" +frozen")
	h.wants(Done, "thaw demo:v1", "demo:v1 is")
	h.wants(Failed, "thaw demo:v1", "this tag is not frozen")
	if got := h.names(); got != second {
		t.Errorf("after the thaw it is %s", got)
	}
	h.wants(Done, "freeze demo:v1@"+first+" --for 7d", "frozen since .* until ")
	h.wants(Failed, "adopt demo:v1", "no new digest of this tag waits")
	h.wants(NoImage, "rollback demo:v1 --to sha256:77", "this tag did not name such a digest")
	r := h.run("thaw demo:v1 --json")
	var c api.TagChange
	if err := json.Unmarshal([]byte(r.out), &c); err != nil || c.Tag.State != "following" {
		t.Errorf("%v %+v", err, r)
	}
}

// TestCompletion: names of images and jobs come from the hubcap, and nothing is
// offered where there is none.
func TestCompletion(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	h.pull()
	h.wants(Done, "__complete freeze d", "^docker.io/library/demo:v1\n:4\n")
	h.wants(Done, "__complete cancel x", "^:4\n")
	h.wants(Done, "__complete setup docker ans", "^ansible\n")
	if r := run("__complete freeze d", "HUBCAP_DATA_DIR="+t.TempDir()); r.out != ":4\n" {
		t.Errorf("%+v", r)
	}
}

// TestImages lists images, and pins, unpins, verifies and purges one.
func TestImages(t *testing.T) {
	h := start(t)
	h.wants(Done, "images", "There is no such image here")
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	h.Hub.Image("library/demo", "v2", fakehub.RandomBlob(2, 1_000_000))
	h.pull()
	h.get("library/demo/manifests/v2")
	h.wants(Done, "images --sort name", `library/demo:v1 +- +1.0 MB +\d+ s ago +1 +fresh\nlibrary/demo:v2 +- +.* of 1.0 MB +\d+ s ago +1 +gaps\n2 images, 1.0 MB held, 0 B of it shared`)
	h.wants(Done, "images library/*:v1 --sort name --state held", `demo:v1(.|\n)*\n1 image, `)
	h.wants(Usage, "images --sort age", "sort")
	h.wants(Usage, "images [", "not a valid glob")
	h.wants(Done, "image demo:v2", `missing: layer sha256:\w+ of -, .*\n(.|\n)*manifest +sha256:\w+ +\d+ B +yes +-\n· layer +sha256:\w+ +1.0 MB +no +-\n· config `)
	h.wants(NoImage, "image demo:v9", "was not pulled here")

	h.wants(Done, "pin demo:v1 --dry-run", "demo:v1 has 1.0 MB in 3 objects; 0 B of it is fetched")
	h.wants(Done, "pins", "Nothing is pinned")
	h.wants(Done, "pin demo:v1 --note keep --until 2099-01-02", "demo:v1 is pinned")
	h.wants(Done, "pins", `demo:v1 +1.0 MB +held +token +2099-01-02 00:00 +keep\n1 pin, 1.0 MB`)
	h.wants(Done, "images --state pinned", "demo:v1 .*fresh, pinned")
	h.wants(Usage, "pin demo:v1 --until tomorrow", "want a date such as")
	h.wants(Usage, "pin demo:v1 --until 2001-01-01", "this time is past")
	h.wants(Failed, "purge demo:v1", "it is kept; force purges it")
	h.wants(Done, "__complete unpin d", "^docker.io/library/demo:v1\n:4\n")
	h.wants(Done, "unpin demo:v1 --dry-run", "demo:v1 with 1.0 MB is pinned")
	h.wants(Done, "unpin demo:v1", "It is pinned no more; 0 pins are left")
	h.wants(Failed, "unpin demo:v1", "it is not pinned")

	h.wants(Done, "verify demo:v1", `right +3 files +1.0 MB`)
	h.wants(Done, "verify --detach", `^\w+-\d+\n`)
	h.wants(Failed, "verify demo:v9", "nothing of this image is held")

	h.wants(Done, "pin demo:v1", "is pinned")
	h.wants(InPart, "purge library/demo", `1 tag, \d object.* are gone: docker.io/library/demo:v2; docker.io/library/demo:v1 stays: `)
	h.wants(Done, "purge library/* --force --dry-run", `1 tag, 3 objects and 1.0 MB would go: docker.io/library/demo:v1.`)
	h.wants(Done, "purge demo:v1 --force", "1 tag, 3 objects and 1.0 MB are gone")
	h.wants(NoImage, "purge demo:v1", "there is nothing of it here")
	h.wants(Usage, "purge sha256:12", "invalid checksum digest length")
}

// TestProblems: the exit code tells scripts whether anything is wrong.
func TestProblems(t *testing.T) {
	if r := start(t).run("problems"); r.code != Done || r.out != "Nothing is wrong.\n" {
		t.Errorf("%+v", r)
	}
	body := `{"problems":[{"id":"x","severity":"warning","since":"2001-01-01T00:00:00Z","what":"A","impact":"B","do":"C","runbook":"r"}]}`
	r := run("problems", answering(t, 200, "application/json", body)...)
	if r.code != InPart || !regexp.MustCompile(`^! since 2001-01-01 \d\d:00  A\n +B\n +Do: C\n$`).MatchString(r.out) || r.errs != "" {
		t.Errorf("%+v", r)
	}
}

// TestStatusOfBoxes: the status has a line for each other box, with what is wrong.
func TestStatusOfBoxes(t *testing.T) {
	body := `{"box":"berlin","state":"degraded","problems":[],"site":[{"name":"http://a:5000","kind":"self","state":"answers"},{"name":"http://b:5000","kind":"peer","state":"answers"},
	{"name":"http://c:5000","kind":"peer","state":"rests","since":"2001-01-01T00:00:00Z","until":"2001-01-01T00:00:10Z","why":"W","wrong":"X"},{"name":"http://d:5000","kind":"sister","state":"fails","since":"2001-01-01T00:00:00Z","why":"W"}]}`
	r := run("status", answering(t, 200, "application/json", body)...)
	want := `peer +http://b:5000 answers *\npeer +http://c:5000 is not asked until 2001-01-01 \d\d:00: W; X *\nsister +http://d:5000 fails since 2001-01-01 \d\d:00: W *\n`
	if r.code != Done || !regexp.MustCompile(want).MatchString(r.out) || strings.Contains(r.out, "http://a:5000") {
		t.Errorf("%+v, want %s", r, want)
	}
}
