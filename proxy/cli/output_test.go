package cli

import (
	"context"
	"strings"
	"testing"
	"time"
)

// noon is the present time of the tests of output.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local)

func at(hour, minute int) string {
	return time.Date(2026, 11, 28, hour, minute, 0, 0, time.Local).Format(time.RFC3339)
}

// outputs are commands with what a hubcap answers them, and what they print.
var outputs = []struct {
	line, answer, want string
	code               int
}{
	{line: "status", answer: `{"box":"berlin","version":"1.4.0","since":"2026-11-02T07:10:31Z","state":"degraded",
	"problems":[{"id":"pulls-end-soon/docker.io","severity":"warning","since":"` + at(9, 40) + `","what":"Docker Hub grants 18 more pulls","impact":"new images are refused then","do":"log the box in"}],
	"today":{"requests":18211,"hit_ratio":0.94,"bytes_out":412316860416,"bytes_in":37580963840,"bytes_saved":374735896576,"joined":214,"stale":0},
	"limits":[{"upstream":"docker.io","identity":"anonymous","limit":100,"remaining":18,"window_s":21600,"lasts_s":2400,"foreign_pulls":31}],
	"disk":{"used":312000000000,"budget":400000000000,"objects":8120,"last_unused_s":3542400,"free":96000000000},
	"clients":{"day":78,"hour":41,"left_day":{"docker":2,"buildkit":1}},"fills":{"running":2,"waiting":0}}`, want: `
berlin  hubcap 1.4.0  up 26 d                                 DEGRADED
! since 09:40  Docker Hub grants 18 more pulls
               new images are refused then
               Do: log the box in
saved today     375 of 412 GB (91 %)
from the cache  94 % of 18211 requests; 214 joined, 0 stale
docker.io       18 of 100 left, ~40 min; at least 31 not by this box        hubcap upstreams
around the box  buildkit: 1 client, docker: 2 clients in a day              hubcap clients
outage          not known yet                                               hubcap outage
disk            312 of 400 GB; what went last was unused for 41 d           hubcap capacity
now             2 downloads, 0 waiting; 41 clients in an hour, 78 in a day  hubcap fills
`},
	{line: "fills", answer: `{"fills":[{"digest":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4","upstream":"docker.io","repository":"library/python",
	"state":"filling","size":67108864,"have":33554432,"rate":21000000,"readers":14,"left_s":2}]}`, want: `
DIGEST               FROM                      STATE    DONE         RATE     LEFT  READERS
sha256:a3ed95caeb02  docker.io/library/python  filling  34 of 67 MB  21 MB/s  2 s   14
`},
	{line: "upstreams", answer: `{"upstreams":[{"host":"ghcr.io","identities":[{"identity":"credentials","credentials":{"usable":true}}],
	"hosts":[{"host":"ghcr.io:443","circuit":"open","since":"` + at(11, 58) + `","failure":"connection refused"}]}]}`, want: `
REGISTRY  AS           PULLS  CREDENTIALS  FAILS
ghcr.io   credentials  -      in use       ghcr.io:443 since 11:58: connection refused
`},
	{line: "capacity", answer: `{"known":true,"budget":400000000000,"scales":[{"scale":1,"size":400000000000,"requests":0.88,"bytes":0.7},{"scale":2,"size":800000000000,"requests":0.94,"bytes":0.8,"week_bytes":41000000000}]}`, want: `
CACHE         REQUESTS  BYTES  FROM THE INTERNET
400 GB (now)  88 %      70 %
800 GB        94 %      80 %  41 GB a week less
`},
	{line: "clients", answer: `{"clients":[{"address":"10.1.2.7","family":"docker","pulls":3,"bytes":3400000,"last_seen":"` + at(11, 57) + `","left":1,"last_left":"` + at(10, 0) + `"}]}`, want: `
ADDRESS   FAMILY  PULLS  BYTES   SEEN       WENT AROUND THE BOX
10.1.2.7  docker  3      3.4 MB  3 min ago  1 time, last 2 h ago
`},
	{line: "jobs", answer: `{"jobs":[{"id":"t1-2","kind":"warm","what":"docker.io/library/redis:7","state":"running","since":"` + at(11, 59) + `","done":31000000,"total":50000000,"rate":21000000,"left_s":1}]}`, want: `
ID    KIND  STATE    DONE         LEFT  SINCE      WHAT
t1-2  warm  running  31 of 50 MB  1 s   1 min ago  docker.io/library/redis:7
`},
	{line: "history python:3.12", answer: `{"tag":{"ref":"docker.io/library/python:3.12","digest":"sha256:9aa0","state":"cooling","moved":{"digest":"sha256:5e1c","since":"` + at(8, 12) + `","until":"` + at(20, 12) + `"}},
	"lines":[{"digest":"sha256:5e1c","first_seen":"` + at(8, 12) + `","last_confirmed":"` + at(11, 58) + `","via":"check","registry":true},
	{"digest":"sha256:9aa0","first_seen":"` + at(3, 40) + `","last_confirmed":"` + at(7, 0) + `","via":"pull","served":true,"current":true}]}`, want: `
SINCE  DIGEST       CONFIRMED  VIA
08:12  sha256:5e1c  2 min ago  check  cooling, is taken over 20:12
03:40  sha256:9aa0  5 h ago    pull   served
docker.io/library/python:3.12: cooling; sha256:5e1c at the registry since 08:12, is taken over 20:12
`},
	{line: "log", answer: `{"requests":[{"id":7,"at":"` + at(11, 59) + `","client":"10.1.2.7","family":"docker","method":"GET","kind":"manifest","registry":"docker.io","repository":"library/gone","tag":"\u001b[2J","status":404,"result":"not_found","took_s":1.24,"error":"404 manifest unknown"}]}`, want: `
11:59:00  10.1.2.7        docker      library/gone:?[2J  not_found  0 B  1.2 s  404 manifest unknown
`},
}

func TestOutputs(t *testing.T) {
	for _, tc := range outputs {
		t.Run(tc.line, func(t *testing.T) {
			o := Options{Environ: answering(t, 200, "application/json", tc.answer), Now: func() time.Time { return noon }}
			r := runWith(context.Background(), o, strings.Fields(tc.line)...)
			if r.out != tc.want[1:] || r.code != tc.code {
				t.Errorf("exit code %d, %s\n%swant %d\n%s", r.code, r.errs, r.out, tc.code, tc.want[1:])
			}
		})
	}
}
