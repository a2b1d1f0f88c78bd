package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
)

// contract holds answers against the OpenAPI document of a box.
type contract struct {
	b      *box
	token  string
	router routers.Router
	asked  map[string]bool // by method and path of the document
}

func newContract(b *box, dir string) *contract {
	b.t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		b.t.Fatal(err)
	}
	_, _, text := b.call(dir, "GET", "/api/v1/openapi.json")
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		b.t.Errorf("the document: %v", err)
	}
	c := &contract{b: b, token: strings.TrimSpace(string(token)), asked: make(map[string]bool)}
	if c.router, err = legacy.NewRouter(doc); err != nil {
		b.t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			c.asked[method+" "+path] = false
		}
	}
	return c
}

// ask sends a request and checks its answer, and that the document allows what
// the handler allows. It returns the body of the answer.
func (c *contract) ask(status int, method, path, body string) []byte {
	t, ctx := c.b.t, context.Background()
	t.Helper()
	request := func() *http.Request {
		r, err := http.NewRequest(method, "http://"+c.b.admin+"/api/v1/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+c.token)
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		return r
	}
	resp, err := c.b.client.Do(request())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Errorf("%s %s %s: %d, want %d: %s", method, path, body, resp.StatusCode, status, content)
	}
	route, values, err := c.router.FindRoute(request())
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	c.asked[method+" "+route.Path] = true
	in := &openapi3filter.RequestValidationInput{Request: request(), PathParams: values, Route: route}
	if err := openapi3filter.ValidateRequest(ctx, in); (err == nil) != (status != 422 || path == unknownQuery) {
		t.Errorf("%s %s %s: answered %d, and the document says: %v", method, path, body, status, err)
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(content)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(ctx, out); err != nil {
		t.Errorf("%s %s: %d %s: %v", method, path, resp.StatusCode, content, err)
	}
	return content
}

// TestContract asks each route of the API in good and bad forms, and holds each
// answer against the OpenAPI document.
func TestContract(t *testing.T) {
	openapi3filter.RegisterBodyDecoder("application/x-tar", openapi3filter.FileBodyDecoder)
	hub := fakehub.Start(t, fakehub.Options{})
	hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 100_000))
	dir := shortDir(t)
	b := start(t, append(behind(t, hub), "HUBCAP_DATA_DIR="+dir, "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8")...)
	c := newContract(b, dir)
	b.get(b.mirror, "/v2/library/demo/manifests/v1")
	for _, path := range []string{
		"status", "problems", "fills", "upstreams", "clients", "clients?after=1&limit=5", "requests", "requests?client=127.0.0.1&result=miss&image=demo&after=0",
		"bypasses", "capacity", "history", "history?step=1d&since=2026-11-28T10:00:00Z", "images?q=library/*&registry=docker.io&state=held&sort=size&limit=1", "image?ref=demo:v1", "image/tree?ref=demo:v1", "tags", "image/history?ref=demo:v1", "schedules", "jobs", "pins", "eviction", "eviction?bytes=1", "holdings",
	} {
		c.ask(200, "GET", path, "")
	}
	for _, one := range contractRows {
		c.ask(one.status, one.method, one.path, one.body)
	}
	c.jobs()
	for route, asked := range c.asked {
		if !asked && route != "GET /api/v1/events" { // TestEvents
			t.Errorf("%s is not asked for", route)
		}
	}
}

// unknownQuery is refused, which OpenAPI has no word for.
const unknownQuery = "status?x=1"

// contractRows are requests in their order: good ones, and those that are refused.
var contractRows = []struct {
	status             int
	method, path, body string
}{
	{422, "GET", unknownQuery, ""},
	{422, "GET", "requests?limit=2001", ""},
	{422, "GET", "history?step=2d", ""},
	{422, "GET", "images?sort=age", ""},
	{404, "GET", "image?ref=demo:v2", ""},
	{404, "GET", "image/tree?ref=demo:v2", ""},
	{422, "GET", "image/history", ""},
	{404, "GET", "image/history?ref=other", ""},
	{404, "GET", "image/history?ref=registry.lan/x", ""},
	{200, "POST", "login", `{"view":true}`},
	{422, "POST", "login", `{"viev":true}`},

	{200, "POST", "image/freeze", `{"ref":"demo:v1","note":"why","dry_run":true}`},
	{422, "POST", "image/freeze", `{"note":"x"}`},
	{404, "POST", "image/freeze", `{"ref":"demo:v2"}`},
	{409, "POST", "image/thaw", `{"ref":"demo:v1"}`},
	{409, "POST", "image/thaw", `{"ref":"demo:v1","dry_run":true}`},
	{200, "POST", "image/freeze", `{"ref":"demo:v1","note":"why"}`},
	{404, "POST", "image/rollback", `{"ref":"demo:v1","to":"sha256:00"}`},
	{409, "POST", "image/adopt", `{"ref":"demo:v1"}`},

	{200, "PUT", "pins", `{"ref":"demo:v1","dry_run":true}`},
	{200, "PUT", "pins", `{"ref":"demo:v1","note":"why","platforms":["linux/amd64"]}`},
	{422, "PUT", "pins", `{"ref":"demo:v1","platforms":[1]}`},
	{404, "PUT", "pins", `{"ref":"registry.lan/x"}`},
	{200, "GET", "pins", ""},
	{200, "DELETE", "pins?ref=demo:v1&dry_run=true", ""},
	{200, "DELETE", "pins?ref=demo:v1", ""},
	{404, "DELETE", "pins?ref=other", ""},

	{200, "GET", "outage", ""},
	{200, "GET", "outage?days=7", ""},
	{422, "GET", "outage?days=0", ""},
	{200, "POST", "outage/repair", `{"dry_run":true}`},
	{422, "POST", "outage/repair", `{"dry":true}`},
	{200, "POST", "outage/repair", `{}`},
	{200, "PUT", "offline", `{"on":true,"for_s":60}`},
	{200, "GET", "offline", ""},
	{422, "PUT", "offline", `{"on":true,"for_s":-1}`},
	{200, "PUT", "offline", `{"on":false}`},

	{200, "POST", "warm", `{"refs":["demo:v1"],"dry_run":true}`},
	{422, "POST", "warm", `{"refs":[]}`},
	{200, "POST", "warm", `{"refs":["demo:v1"],"every_s":3600,"platforms":["all"]}`},
	{422, "POST", "warm", `{"refs":["demo:v1"],"every_s":1}`},
	{200, "GET", "schedules", ""},
	{200, "DELETE", "schedules/1", ""},
	{404, "DELETE", "schedules/1", ""},
	{200, "POST", "export", `{"refs":["demo:v1"],"dry_run":true}`},
	{200, "POST", "export", `{"refs":["demo:v1"],"platforms":["linux/amd64"],"not_in":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}`},
	{422, "POST", "export", `{"refs":[]}`},
	{404, "POST", "export", `{"refs":["registry.lan/x"]}`},
	{415, "POST", "import?dry_run=true", ""},
	{415, "POST", "import?as=quay.io/a/b&partial=true&force=true", ""},
	{422, "POST", "import?partial=maybe", ""},

	{404, "GET", "jobs/none", ""},
	{404, "DELETE", "jobs/none", ""},
}

// jobs follows a job to its end.
func (c *contract) jobs() {
	t := c.b.t
	var started api.Warmed
	if err := json.Unmarshal(c.ask(200, "POST", "warm", `{"refs":["demo:v1","none:v9"]}`), &started); err != nil || started.Job == nil {
		t.Fatal(started, err)
	}
	job := *started.Job
	for deadline := time.Now().Add(soon); !job.State.Over(); time.Sleep(10 * time.Millisecond) {
		if err := json.Unmarshal(c.ask(200, "GET", "jobs/"+started.Job.ID, ""), &job); err != nil || time.Now().After(deadline) {
			t.Fatal(job, err)
		}
	}
	if job.State != jobs.InPart || len(job.Items) != 2 {
		t.Errorf("%+v", job)
	}
	c.ask(200, "GET", "jobs", "")
	c.ask(409, "DELETE", "jobs/"+job.ID, "")
	var frozen api.TagHistory
	if err := json.Unmarshal(c.ask(200, "GET", "image/history?ref=demo:v1", ""), &frozen); err != nil || frozen.Tag.Frozen == nil || frozen.Tag.Frozen.By != "token" {
		t.Errorf("%+v, %v", frozen, err)
	}
	c.ask(200, "GET", "tags", "")
	c.ask(409, "POST", "purge", `{"ref":"demo:v1"}`)
	c.ask(200, "POST", "image/thaw", `{"ref":"demo:v1"}`)
	c.ask(200, "POST", "verify", `{"ref":"demo:v1"}`)
	c.ask(200, "POST", "verify", `{}`)
	c.ask(404, "POST", "verify", `{"ref":"none:v9"}`)
	c.ask(200, "POST", "evict", `{"bytes":1000000,"dry_run":true}`)
	c.ask(200, "POST", "evict", `{"bytes":1}`)
	c.ask(422, "POST", "evict", `{"bytes":0}`)
	var would, did api.Purged
	if err := json.Unmarshal(c.ask(200, "POST", "purge", `{"repository":"library/*","force":true,"dry_run":true}`), &would); err != nil { // what was frozen is let go
		t.Fatal(err)
	}
	if err := json.Unmarshal(c.ask(200, "POST", "purge", `{"repository":"library/*","force":true}`), &did); err != nil {
		t.Fatal(err)
	}
	if would.Objects != did.Objects || would.Bytes != did.Bytes || did.Objects == 0 {
		t.Errorf("the dry run said %+v, and %+v went", would, did)
	}
	c.ask(404, "POST", "purge", `{"ref":"demo:v1"}`)
	c.ask(400, "POST", "purge", `{}`)
}
