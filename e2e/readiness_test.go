package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// object is a JSON object.
type object map[string]any

// api asks the API of a box with this data directory, and fails if the answer is not 200.
func (h *hubcap) api(t *testing.T, dataDir, method, path string, body, answer any) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dataDir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+"/api/v1/"+path, strings.NewReader(string(mustMarshal(body))))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	response, err := h.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v: %s", method, path, response.Status, err, text)
	}
	if answer == nil {
		return
	}
	if err := json.Unmarshal(text, answer); err != nil {
		t.Fatal(err)
	}
}

// TestOutageReadiness has a box hold 20 images, some of which have lost something, and cuts the line. The images that the box says to be ready
// are pulled by daemons, and those that it says not to be ready are not. The box asks nobody.
func TestOutageReadiness(t *testing.T) {
	t.Parallel()
	need(t)
	daemons := []string{"dockerd", "containerd2"}
	for _, name := range daemons {
		clientNamed(t, name)
	}
	var images []*image
	for n := range 20 {
		images = append(images, multiArchOf(fmt.Sprintf("library/image-%d", n)))
	}
	s, data := newSite(t, images...), scratch(t)
	h := s.startHubcap(t, data, "HUBCAP_TAG_TTL=1ms")
	first := clientNamed(t, "containerd2").start(t, s, mirror)
	for _, i := range images {
		mustPull(t, first, i)
	}
	for n, i := range images[10:] {
		lost := i.needs()
		lost = append(lost, i.pulled()[n%len(i.pulled())].Digest)
		h.api(t, data, http.MethodPost, "purge", object{"digest": lost[n%len(lost)]}, nil)
	}
	var report struct {
		Images, Ready int
		Not           []struct{ Ref string }
	}
	h.api(t, data, http.MethodGet, "outage", nil, &report)
	if report.Images != len(images) || report.Ready != 10 {
		t.Errorf("%+v", report)
	}
	ready := make(map[string]bool)
	for _, i := range images {
		ready[i.repository] = true
	}
	for _, row := range report.Not {
		name, _, _ := strings.Cut(strings.TrimPrefix(row.Ref, "docker.io/"), ":")
		ready[name] = false
	}
	sessions := map[string]session{}
	for _, name := range daemons {
		sessions[name] = clientNamed(t, name).start(t, s, mirror)
	}
	h.api(t, data, http.MethodPut, "offline", object{"on": true, "for_s": 3600}, nil)
	s.hub.Reset()
	s.hub.Down()
	var pulling sync.WaitGroup
	for name, one := range sessions {
		pulling.Go(func() {
			for _, i := range images {
				if err := one.pull(i); (err == nil) != ready[i.repository] {
					t.Errorf("%s: %s is said to be ready: %v, and the pull says: %v", name, i.repository, ready[i.repository], err)
				}
			}
		})
	}
	pulling.Wait()
	for _, r := range s.hub.Log() {
		if strings.HasPrefix(r.UserAgent, "hubcap/") {
			t.Errorf("a box that is offline asked %s %s", r.Method, r.Path)
		}
	}
	h.api(t, data, http.MethodPut, "offline", object{"on": false}, nil)
	s.hub.Up()
	var plan struct {
		Images int
		Left   []object
	}
	h.api(t, data, http.MethodPost, "outage/repair", object{"dry_run": true}, &plan)
	if plan.Images != 10 || len(plan.Left) > 0 {
		t.Errorf("%+v", plan)
	}
}
