package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// otherRegistry is where Debian's own registry listens, the one upstream here that nobody of this project has written.
const otherRegistry = "127.0.0.1:6000"

// otherRegistryConfig has one value: its directory.
const otherRegistryConfig = `version: 0.1
log: {level: info, formatter: json, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "` + otherRegistry + `"}
`

// ourAgent is how we call ourselves when we fill the registry.
const ourAgent = "e2e-filler/1"

// TestPullFromAnotherRegistry pulls through hubcap what a real registry serves, on plain http and without tokens.
func TestPullFromAnotherRegistry(t *testing.T) {
	need(t, "docker-registry")
	app := multiArchImage()
	app.repository, app.tag = testRegistry+"/owner/app", "v1"

	s := &site{ns: newNamespace(t)}
	registry := startOtherRegistry(t, s.ns)
	pushImage(t, s.ns.httpClient(t), app)
	startHubcap(t, s.ns, scratch(t), longTTL,
		"HUBCAP_UPSTREAM_0_HOST="+testRegistry,
		"HUBCAP_UPSTREAM_0_URL=http://"+otherRegistry,
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8")

	pulled := 0
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.programs...)
			mustPull(t, c.start(t, s, mirror), app)
			pulled++
		})
	}
	if pulled > 0 {
		assertLogged(t, registry, app)
	}
}

// TestDockerdOfASiteWithARegistry: dockerd asks a mirror port whose default is the site's own registry, and the one of Docker Hub for what is not
// there.
func TestDockerdOfASiteWithARegistry(t *testing.T) {
	need(t, "docker-registry")
	clientNamed(t, "dockerd")
	const own = "127.0.0.1:5002"
	kept, public := multiArchImage(), singleImage("library/single")
	kept.repository, kept.tag = "team/base", "v1"

	s := newSite(t, public)
	registry := startOtherRegistry(t, s.ns)
	pushImage(t, s.ns.httpClient(t), kept)
	s.startHubcap(t, scratch(t), longTTL,
		"HUBCAP_UPSTREAM_1_HOST="+testRegistry, "HUBCAP_UPSTREAM_1_URL=http://"+otherRegistry, "HUBCAP_UPSTREAM_1_PRIVATE_CIDRS=127.0.0.0/8",
		"HUBCAP_LISTEN_0_ADDRESS="+own, "HUBCAP_LISTEN_0_UPSTREAM="+testRegistry)
	d := startDockerd(t, s, own)
	mustPull(t, d, kept)
	assertLogged(t, registry, kept)
	if asked := s.hub.Log(); len(asked) > 0 {
		t.Errorf("Docker Hub was asked for what the site has:\n%s", describe(asked))
	}
	mustPull(t, d, public)
	s.assertNoBypass(t)
	s.assertCrossedOnce(t, public)
}

func startOtherRegistry(t *testing.T, ns *namespace) *process {
	t.Helper()
	c := newTool(t, &site{ns: ns}, "")
	config := c.write(t, "config.yml", fmt.Sprintf(otherRegistryConfig, c.path("data")))
	registry := startDaemon(t, ns, "docker-registry", c.command("docker-registry", "serve", config))
	registry.waitReady(t, func() bool {
		conn, err := ns.dial(t.Context(), "tcp", otherRegistry)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return registry
}

// assertLogged reads the registry's log: nobody but hubcap has pulled, and nothing twice.
func assertLogged(t *testing.T, registry *process, i *image) {
	t.Helper()
	crossed := map[string]int64{}
	for line := range bytes.Lines(registry.log.Bytes()) {
		var entry struct {
			Message string `json:"msg"`
			Method  string `json:"http.request.method"`
			URI     string `json:"http.request.uri"`
			Agent   string `json:"http.request.useragent"`
			Status  int    `json:"http.response.status"`
			Written int64  `json:"http.response.written"`
		}
		if json.Unmarshal(line, &entry) != nil || entry.Message != "response completed" || entry.Agent == ourAgent {
			continue
		}
		if !strings.HasPrefix(entry.Agent, "hubcap/") {
			t.Errorf("went around hubcap: %s %s (%s)", entry.Method, entry.URI, entry.Agent)
		}
		if entry.Method == http.MethodGet && entry.Status < 300 {
			crossed[path.Base(entry.URI)] += entry.Written
		}
	}
	i.assertOnce(t, crossed)
}

// pushImage fills the registry through its API.
func pushImage(t *testing.T, client *http.Client, i *image) {
	t.Helper()
	base := "http://" + otherRegistry + "/v2/" + strings.TrimPrefix(i.repository, testRegistry+"/")
	for d, content := range i.blobs {
		pushBlob(t, client, base, d, content)
	}
	// The registry takes an index only when it has what is below it.
	for _, d := range slices.Sorted(maps.Keys(i.manifests)) {
		if d != i.root.Digest {
			push(t, client, http.MethodPut, base+"/manifests/"+d.String(), i.manifests[d].mediaType, i.manifests[d].content)
		}
	}
	push(t, client, http.MethodPut, base+"/manifests/"+i.tag, i.root.MediaType, i.manifests[i.root.Digest].content)
}

func pushBlob(t *testing.T, client *http.Client, base string, d digest.Digest, content []byte) {
	t.Helper()
	upload := push(t, client, http.MethodPost, base+"/blobs/uploads/", "", nil)
	to, err := url.Parse(upload.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	query := to.Query()
	query.Set("digest", d.String())
	to.RawQuery = query.Encode()
	push(t, client, http.MethodPut, to.String(), "application/octet-stream", content)
}

func push(t *testing.T, client *http.Client, method, to, mediaType string, content []byte) http.Header {
	t.Helper()
	request, err := http.NewRequest(method, to, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", ourAgent)
	request.Header.Set("Content-Type", mediaType)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, _ := io.ReadAll(response.Body); response.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s\n%s", method, to, response.Status, body)
	}
	return response.Header
}
