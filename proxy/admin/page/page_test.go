package page

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"hubcap/proxy/setup"
)

// noon is the present time of the tests.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// markup is a text that would change a page that does not escape it.
const markup = `<script>alert(1)</script>"'&`

// escaped is what of markup must not be on a page.
const escaped = "<script>alert"

// answers are what the API answers, by route; every text is markup where somebody
// else chooses it.
var answers = map[string]string{
	"status": `{"box":"berlin","version":"1.4.0","since":"2026-11-02T07:10:31Z","state":"degraded","offline":false,
	"problems":[{"id":"x","severity":"warning","since":"2026-11-28T09:40:00Z","what":"M","impact":"new images are refused then","do":"log the box in","runbook":"pulls-end-soon"}],
	"today":{"requests":18211,"hit_ratio":0.94,"bytes_out":412316860416,"bytes_in":37580963840,"bytes_saved":374735896576},
	"limits":[{"upstream":"ghcr.io","limit":-1,"remaining":5},{"upstream":"docker.io","identity":"anonymous","limit":100,"remaining":18,"lasts_s":2400}],
	"disk":{"used":312000000000,"budget":400000000000,"objects":8120},"outage":{"days":30,"images":43,"ready":41,"gaps":2,"missing_bytes":913000000,"checked":"2026-11-28T11:58:00Z"},
	"clients":{"day":78,"hour":41,"left_day":{"docker":2,"buildkit":1}},"fills":{"running":1},
	"site":[{"name":"http://M:5000","kind":"self","state":"answers"},{"name":"http://M:5001","kind":"peer","state":"rests","since":"2026-11-28T09:40:00Z","until":"2026-11-28T12:00:10Z","why":"M","wrong":"M"},
	{"name":"http://M:5002","kind":"sister","state":"fails","since":"2026-11-28T09:40:00Z","why":"M"},{"name":"http://M:5003","kind":"peer","state":"answers"}],"boxes":[{"name":"M","url":"https://paris.lan:5001"}]}`,
	"history": `{"step_s":86400,"points":[{"start":"2026-11-27T00:00:00Z","values":{"client_bytes":3000000,"upstream_bytes":1000000,"requests":10,"cached":5,"cache_bytes":7}},
	{"start":"2026-11-28T00:00:00Z","values":{"client_bytes":1000,"upstream_bytes":500,"requests":4,"cached":4,"cache_bytes":9,"pulls_left/docker.io/anonymous":18}}]}`,
	"fills": `{"fills":[{"digest":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4","upstream":"docker.io","repository":"M","state":"filling","size":67108864,"have":33554432,"rate":21000000,"readers":14,"left_s":2}]}`,
	"upstreams": `{"upstreams":[{"host":"docker.io","url":"https://M","identities":[{"identity":"anonymous","repositories":["M"],"limit":{"limit":100,"remaining":18,"lasts_s":2400,"foreign_pulls":3},"credentials":{"failure":"M"}}],
	"hosts":[{"host":"docker.io:443","role":"registry","circuit":"open","since":"2026-11-28T11:58:00Z","failure":"M","last_failure":"2026-11-28T11:58:00Z","limited_until":"2026-11-28T12:58:00Z","addresses":["192.0.2.1"]}]},
	{"host":"ghcr.io","url":"https://ghcr.io","identities":[],"hosts":[]}]}`,
	"images": `{"images":[{"ref":"docker.io/library/M:1","digest":"sha256:aa","state":"frozen","pinned":true,"outage":"gaps","used":"2026-11-28T11:58:00Z","pulls_30d":3,"size":100,"held":50,
	"platforms":[{"platform":"linux/M","digest":"sha256:bb","wanted":true,"size":100,"held":50}]}],"next":"5 M"}`,
	"image": `{"ref":"docker.io/library/M:1","digest":"sha256:aa","outage":"gaps","why":"M","served":"sha256:cc","used":"2026-11-28T11:58:00Z","pulls_30d":3,"size":100,"held":50,
	"platforms":[{"platform":"linux/M","digest":"sha256:bb","wanted":true,"size":100,"held":50,"gaps":[{"part":"layer","digest":"sha256:dd","size":50,"why":"M","at":"2026-11-28T11:58:00Z"}]}]}`,
	"image/tree": `{"kind":"index","digest":"sha256:aa","size":5,"held":true,"nodes":[{"kind":"manifest","platform":"linux/M","digest":"sha256:bb","size":-1,"held":false,"shared_with":2}]}`,
	"image/history": `{"tag":{"ref":"docker.io/library/M:1","digest":"sha256:aa","state":"cooling","frozen":{"since":"2026-11-28T09:00:00Z","until":"2026-11-29T09:00:00Z","by":"M","note":"M","deleted":"2026-11-28T09:00:00Z"},"moved":{"digest":"sha256:ee","since":"2026-11-28T08:12:00Z","until":"2026-11-28T20:12:00Z"}},
	"lines":[{"digest":"sha256:ee","first_seen":"2026-11-28T08:12:00Z","via":"M","registry":true},{"digest":"sha256:aa","first_seen":"2026-11-28T03:40:00Z","via":"pull","served":true,"current":true}]}`,
	"pins":     `{"pins":[{"ref":"docker.io/library/M:1","state":"missing","why":"M","note":"M","by":"M","bytes":5,"missing":1,"missing_bytes":5,"until":"2026-11-29T09:00:00Z"}],"summary":{}}`,
	"eviction": `{"objects":[{"digest":"sha256:77","kind":"layer","size":412000000,"used":"2026-08-28T12:00:00Z","partial":true,"image":"M","images":3}],"count":31,"bytes":20300000000,"pinned":41000000000,"broken":1,"broken_images":["M"]}`,
	"evict":    `{"count":31,"bytes":20300000000,"pinned":41000000000,"broken":1,"broken_images":["M"]}`,
	"capacity": `{"known":true,"budget":400000000000,"scales":[{"scale":1,"size":400000000000,"requests":0.88,"bytes":0.7},{"scale":2,"size":800000000000,"requests":0.94,"bytes":0.8}]}`,
	"clients":  `{"clients":[{"address":"10.1.2.7","family":"M","pulls":3,"bytes":3400000,"last_seen":"2026-11-28T11:58:00Z","left":1,"last_left":"2026-11-28T10:00:00Z"}],"next":50}`,
	"bypasses": `{"suspicions":[{"at":"2026-11-28T11:58:00Z","client":"10.1.2.7","family":"docker","image":"M","answer":"M","outcome":"left"}],"foreign":[{"upstream":"M","identity":"M","pulls":3}]}`,
	"requests": `{"requests":[{"id":7,"at":"2026-11-28T11:59:00Z","client":"10.1.2.7","family":"docker","method":"M","kind":"manifest","registry":"docker.io","repository":"M","tag":"M","status":404,"result":"not_found","took_s":1.24,"error":"M"},
	{"id":8,"at":"2026-11-28T11:59:00Z","client":"10.1.2.7","kind":"other","path":"/v2/M","status":500,"took_s":0.012}]}`,
	"jobs":      `{"jobs":[{"id":"t1-2","kind":"warm","what":"M","state":"running","since":"2026-11-28T11:59:00Z","done":31000000,"total":50000000,"rate":21000000,"errors":["M"],"items":[{"name":"M","result":"M"}]}]}`,
	"jobs/t1-2": `{"id":"t1-2","kind":"warm","what":"M","state":"running","done":31000000,"total":50000000}`,
	"schedules": `{"schedules":[{"id":"s1","refs":["M"],"every_s":86400,"next":"2026-11-29T12:00:00Z"}]}`,
	"outage": `{"days":30,"images":43,"ready":41,"gaps":2,"missing_bytes":913000000,"missing_pulls":1,"checked":"2026-11-28T11:58:00Z","not":[{"ref":"docker.io/library/M:1","outage":"gaps","why":"M",
	"platforms":[{"platform":"linux/M","digest":"sha256:bb","gaps":[{"part":"layer","digest":"sha256:dd","size":50,"why":"M","at":"2026-11-28T11:58:00Z"}]}]}]}`,
	"offline":        `{"on":true,"until":"2026-11-28T12:30:00Z"}`,
	"outage/repair":  `{"images":2,"objects":3,"bytes":913000000,"pulls":[{"registry":"M","pulls":2}],"left":[{"ref":"M","why":"M"}]}`,
	"image/freeze":   `{"tag":{"ref":"docker.io/library/M:1","digest":"sha256:aa"},"digest":"sha256:aa","cost":{"objects":2,"bytes":1000,"pulls":1}}`,
	"image/rollback": `{"tag":{"ref":"docker.io/library/M:1","digest":"sha256:aa"},"digest":"sha256:bb","cost":{"objects":0}}`,
	"image/thaw":     `{"tag":{"ref":"docker.io/library/M:1","digest":"sha256:aa"}}`,
	"image/adopt":    `{"tag":{"ref":"docker.io/library/M:1","digest":"sha256:aa"},"digest":"sha256:bb"}`,
	"warm":           `{"estimate":{"items":[{"name":"M","result":"M"}],"objects":2,"bytes":1000,"pulls":1,"unknown":true}}`,
	"purge":          `{"tags":["M"],"objects":3,"bytes":1000,"shared":2,"kept":[{"name":"M","why":"M"}]}`,
	"verify":         `{"id":"t1-2"}`,
}

// fakeAPI answers from answers, and notes what was asked.
type fakeAPI struct {
	asked  []string // method, route, query and body of what is not a GET
	refuse string   // the error of every order; empty for none
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	text, known := answers[route]
	if r.Method != http.MethodGet {
		body, _ := io.ReadAll(r.Body)
		f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+route+" "+r.URL.RawQuery+string(body)))
	}
	switch {
	case !known:
		w.WriteHeader(http.StatusNotFound)
		text = `{"title":"Not Found","status":404,"detail":"no route"}`
	case f.refuse != "" && r.Method != http.MethodGet:
		w.WriteHeader(http.StatusConflict)
		text = f.refuse
	}
	quoted, _ := json.Marshal(markup)
	_, _ = io.WriteString(w, strings.ReplaceAll(text, "M", strings.Trim(string(quoted), `"`)))
}

// visit sends a request to a page of the API; looking is whether the browser may
// only look.
func visit(api http.Handler, looking bool, method, path string, form url.Values) *httptest.ResponseRecorder {
	p := New(Options{
		API: api, MayAct: func(context.Context) bool { return !looking }, Now: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler),
		Setup: func(string) setup.Box {
			return setup.Mirrors{Registries: []string{"docker.io", "ghcr.io"}}.Box("berlin:5000", false, "docker.io")
		},
	})
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// TestPages shows every page, with markup wherever somebody else chooses a text.
func TestPages(t *testing.T) {
	for path, want := range map[string][]string{
		"/":                                 {"1 problem", "New images are refused then.", "375 GB", "91 % of what clients pulled", "18 of 100", "at this pace for 40 min", "3 hosts", "buildkit 1, docker 2", "312 of 400 GB", "41 of 43 ready", "913 MB missing", "34 of 67 MB", "<polyline", `<a href="https://paris.lan:5001">`},
		"/?chart=1y":                        {"1 year", "<rect", "2.0 MB"},
		"/images?q=x&sort=size":             {"50 of 100 B", "frozen", "gaps", "after=5&#43;%3Cscript", `value="size" selected`},
		"/image?ref=x":                      {"cooling since 09:00", "Thaw", "Adopt", "Unpin", "Roll back", "not held", "shared with 2"},
		"/outage":                           {"41 of 43 images", "913 MB are missing", "until 12:30", "Repair", "Go online", "2 min ago"},
		"/jobs":                             {"31 of 50 MB", "Cancel", "24 h"},
		"/upstreams":                        {"18 of 100 left", "left alone for a while", "Not asked since the start", "Boxes that share", "not asked until 12:00", "fails since 09:40", "another site"},
		"/clients":                          {"10.1.2.7", "3.4 MB", "left", "/clients?after=50"},
		"/requests?client=10":               {"1.2 s", "12 ms", "not_found", `value="10"`},
		"/next?bytes=10000000000":           {"412 MB", "92 d", "88 %", `aria-current="true">10 GB`},
		"/setup":                            {"http://berlin:5000/setup", "daemon.json", "&#34;registry-mirrors&#34;"},
		"/help":                             {"pulls-end-soon", "What hubcap says"},
		"/?done=pin":                        {"It is pinned."},
		"/?done=" + url.QueryEscape(markup): {"saved today"},
	} {
		w := visit(&fakeAPI{}, false, "GET", path, nil)
		body := w.Body.String()
		if w.Code != http.StatusOK || strings.Contains(body, escaped) {
			t.Errorf("%s: %d\n%s", path, w.Code, body)
		}
		for _, text := range want {
			if !strings.Contains(body, text) {
				t.Errorf("%s: no %q", path, text)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); csp != policy || strings.Contains(body, "style=") || strings.Contains(body, "onclick") {
			t.Errorf("%s: %s", path, csp)
		}
	}
}

// TestLooking shows every page to one who may only look: there is nothing on it that
// changes anything, and no action.
func TestLooking(t *testing.T) {
	for _, path := range []string{"/", "/images", "/image?ref=x", "/outage", "/jobs", "/upstreams", "/clients", "/requests", "/next", "/setup", "/help"} {
		body := visit(&fakeAPI{}, true, "GET", path, nil).Body.String()
		body = strings.Replace(body, `<form action="/logout" method="post">`, "", 1)
		if strings.Contains(body, "/do/") || strings.Contains(body, `method="post"`) {
			t.Errorf("%s:\n%s", path, body)
		}
	}
	for name := range actions {
		api := &fakeAPI{}
		form := url.Values{"ref": {"x"}, "id": {"t1-2"}, "refs": {"x"}, "bytes": {"5"}}
		got, posted := visit(api, true, "GET", "/do/"+name+"?"+form.Encode(), nil), visit(api, true, "POST", "/do/"+name, form)
		if got.Code != http.StatusForbidden || posted.Code != http.StatusForbidden || len(api.asked) > 0 {
			t.Errorf("%s: %d, %d, %s", name, got.Code, posted.Code, api.asked)
		}
	}
}

// TestActions carries out every action: the dry run first, and then the deed.
func TestActions(t *testing.T) {
	for _, tc := range []struct{ name, form, says, plan, deed, to string }{
		{"pin", "ref=a&for=86400&platforms=linux/amd64,+all", "is pinned", `PUT pins {"ref":"a","platforms":["linux/amd64","all"],"until":"2026-11-29T12:00:00Z","dry_run":true}`, `PUT pins {"ref":"a","platforms":["linux/amd64","all"],"until":"2026-11-29T12:00:00Z"}`, "/image?done=pin&ref=a"},
		{"unpin", "ref=a", "may be evicted", "DELETE pins dry_run=true&ref=anull", "DELETE pins dry_run=false&ref=anull", "/image?done=unpin&ref=a"},
		{"warm", "refs=a%0D%0Ab&every=3600", "2 objects, at least", `POST warm {"refs":["a","b"],"every_s":3600,"dry_run":true}`, `POST warm {"refs":["a","b"],"every_s":3600}`, "/jobs?done=warm"},
		{"freeze", "ref=a", "given it until it is thawed", `POST image/freeze {"ref":"a","dry_run":true}`, `POST image/freeze {"ref":"a"}`, "/image?done=freeze&ref="},
		{"rollback", "ref=a&to=sha256:b&note=n", "becomes sha256:bb", `POST image/rollback {"ref":"a","to":"sha256:b","note":"n","dry_run":true}`, `POST image/rollback {"ref":"a","to":"sha256:b","note":"n"}`, "/image?"},
		{"thaw", "ref=a", "what its registry names", `POST image/thaw {"ref":"a","dry_run":true}`, `POST image/thaw {"ref":"a"}`, "/image?"},
		{"adopt", "ref=a", "becomes sha256:bb", `POST image/adopt {"ref":"a","dry_run":true}`, `POST image/adopt {"ref":"a"}`, "/image?"},
		{"purge", "repository=a&force=yes", "1 tag, 3 objects and 1.0 kB", `POST purge {"repository":"a","dry_run":true,"force":true}`, `POST purge {"repository":"a","force":true}`, "/images?done=purge"},
		{"verify", "ref=a", "hashes the files of a", "", `POST verify {"ref":"a"}`, "/jobs?done=verify"},
		{"evict", "bytes=20000000000", "20 GB in 31 objects", `POST evict {"bytes":20000000000,"dry_run":true}`, `POST evict {"bytes":20000000000}`, "/next?done=evict"},
		{"repair", "", "913 MB for 2 images", `POST outage/repair {"dry_run":true}`, `POST outage/repair {}`, "/outage?done=repair"},
		{"offline", "for=1800", "for 30 min", "", `PUT offline {"on":true,"for_s":1800}`, "/outage?done=offline"},
		{"online", "", "asked again from now on", "", `PUT offline {"on":false}`, "/outage?done=online"},
		{"cancel", "id=t1-2", "The job ends", "", "DELETE jobs/t1-2 null", "/jobs?done=cancel"},
		{"unschedule", "id=s1", "24 h", "", "DELETE schedules/s1 null", ""},
	} {
		form, err := url.ParseQuery(tc.form)
		if err != nil {
			t.Fatal(err)
		}
		api := &fakeAPI{}
		w := visit(api, false, "GET", "/do/"+tc.name+"?"+tc.form, nil)
		if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, tc.says) || !strings.Contains(body, "What will happen") || strings.Contains(body, escaped) || strings.Join(api.asked, ";") != tc.plan {
			t.Errorf("%s: %d, asked %s, want %s\n%s", tc.name, w.Code, api.asked, tc.plan, body)
		}
		api.asked = nil
		w = visit(api, false, "POST", "/do/"+tc.name, form)
		if strings.Join(api.asked, ";") != tc.deed || tc.to != "" && (w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), tc.to)) {
			t.Errorf("%s: %d to %s, asked %s, want %s", tc.name, w.Code, w.Header().Get("Location"), api.asked, tc.deed)
		}
		api.refuse = `{"title":"Conflict","status":409,"detail":"M","do":"unpin something"}`
		w = visit(api, false, "POST", "/do/"+tc.name, form)
		if body := w.Body.String(); w.Code != http.StatusConflict && tc.name != "unschedule" || !strings.Contains(body, "unpin something") && tc.name != "unschedule" || strings.Contains(body, escaped) {
			t.Errorf("%s, refused: %d\n%s", tc.name, w.Code, body)
		}
	}
}

// TestMissing asks for what there is not.
func TestMissing(t *testing.T) {
	for path, status := range map[string]int{"/none": 404, "/do/none": 404, "/static/none": 404, "/static/style.css": 200, "/static/page.js": 200, "/static/favicon.svg": 200} {
		if w := visit(&fakeAPI{}, false, "GET", path, nil); w.Code != status {
			t.Errorf("%s: %d, want %d", path, w.Code, status)
		}
	}
}
