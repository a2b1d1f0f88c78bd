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
)

// wants runs a command line and checks its exit code and a pattern of its output.
func (h *hubcap) wants(code int, line, pattern string) {
	h.t.Helper()
	r := h.run(line)
	if r.code != code || !regexp.MustCompile(pattern).MatchString(r.out+r.errs) {
		h.t.Errorf("hubcap %s: exit code %d, want %d, and %q\n%s%s", line, r.code, code, pattern, r.out, r.errs)
	}
}

// names returns the digest that a tag of library/demo has for clients.
func (h *hubcap) names(tag string) string {
	h.t.Helper()
	resp, err := http.Head("http://" + h.mirror + "/v2/library/demo/manifests/" + tag)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("Docker-Content-Digest")
}

func TestWarm(t *testing.T) {
	h := start(t)
	h.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	h.hub.Image("library/demo", "v2", fakehub.RandomBlob(2, 1_000_000))
	h.wants(Done, "warm demo:v1 --dry-run", `1 object, at least \d+ B, is fetched; that takes at least 1 pull`)
	h.wants(Done, "warm demo:v1", `docker.io/library/demo:v1  fetched  1.0 MB\n1 of 1, 1.0 MB; 1 pull of docker.io used, 99 left`)
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

// TestWarmAsJSON: every line is the job at a moment, the last one as it ended.
func TestWarmAsJSON(t *testing.T) {
	h := start(t)
	h.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
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
	first := h.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000)).Manifest.Digest.String()
	h.pull()
	second := h.hub.Image("library/demo", "v1", fakehub.RandomBlob(2, 1000)).Manifest.Digest.String()
	h.pull()
	h.wants(NoImage, "history demo:v2", "this tag was not pulled here")
	h.wants(Done, "history demo:v1", short(second)+".*served\n.*"+short(first)+"(.|\n)*following")
	h.wants(Done, "rollback demo:v1 --dry-run", "demo:v1 is "+short(second)+" and becomes "+short(first)+". All of it is held")
	if got := h.names("v1"); got != second {
		t.Errorf("after a dry run it is %s", got)
	}
	h.wants(Done, "rollback demo:v1 --note broken", "demo:v1 is "+short(first)+": frozen since .* by .*: broken; "+short(second)+" at the registry")
	if got := h.names("v1"); got != first {
		t.Errorf("after the rollback it is %s", got)
	}
	h.wants(Done, "history", "demo:v1 +"+short(first)+" +frozen")
	h.wants(Done, "thaw demo:v1", "demo:v1 is")
	h.wants(Failed, "thaw demo:v1", "this tag is not frozen")
	if got := h.names("v1"); got != second {
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
	h.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	h.pull()
	h.wants(Done, "__complete freeze d", "^docker.io/library/demo:v1\n:4\n")
	h.wants(Done, "__complete cancel x", "^:4\n")
	h.wants(Done, "__complete setup docker ans", "^ansible\n")
	if r := run("__complete freeze d", "HUBCAP_DATA_DIR="+t.TempDir()); r.out != ":4\n" {
		t.Errorf("%+v", r)
	}
}
