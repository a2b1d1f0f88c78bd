package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// statement is something that clients need of a pull-through cache, as it was measured with them, and where a test shows that hubcap does
// it. A test is named with its room before it, and a subtest of TestStatements by the number.
type statement struct {
	number int
	needs  string
	shown  []string
}

var statements = []statement{
	{1, "GET /v2/ is 200 at once, whatever the upstream does", []string{"proxy TestStatements/statement 1", "e2e TestUpstreamDownAtStart"}},
	{2, "no ns means the default registry", []string{"proxy TestNamesOfRegistries", "e2e TestEveryClient"}},
	{3, "ns chooses a registry, docker.io by any of its names; an unknown one is 404; it does not go upstream", []string{"proxy TestNamesOfRegistries", "proxy TestBadInputIsRefusedBlind", "proxy TestStatements/statement 3", "e2e TestEveryClient"}},
	{4, "a registry before or behind /v2/, also together with ns", []string{"proxy TestNamesOfRegistries", "e2e TestPullFromAnotherRegistry"}},
	{5, "dockerd 20.10 takes no mirror with a path", []string{"e2e TestDockerdKnowsOneRegistry", "deploy TestDockerDaemon"}},
	{6, "dockerd asks a mirror for Docker Hub only, and clients.md says so", []string{"e2e TestDockerdKnowsOneRegistry"}},
	{7, "HEAD and GET of a manifest have the same explicit headers", []string{"proxy TestStatements/statement 7", "proxy TestPullColdThenWarm"}},
	{8, "the media type is the upstream's, to the letter", []string{"proxy TestBytesAndTypesPassUnchanged"}},
	{9, "bytes are served unchanged and not encoded", []string{"proxy TestStatements/statement 9", "proxy TestBytesAndTypesPassUnchanged"}},
	{10, "no Accept leads to another object or to a 406", []string{"proxy TestStatements/statement 10"}},
	{11, "HEAD of a tag and the GET by digest cost one HEAD, none when fresh", []string{"proxy TestStatements/statement 11", "proxy TestTagInsideItsTTLAsksNobody"}},
	{12, "GET by tag costs no GET while the tag has not moved", []string{"proxy TestTagPastItsTTLIsConfirmedByOneHead"}},
	{13, "nothing is fetched that nobody has asked for", []string{"proxy TestStatements/statement 13", "e2e TestEveryClient"}},
	{14, "a known tag is served while the upstream fails", []string{"proxy TestStaleWhenTheUpstreamFails", "proxy TestSlowUpstream", "e2e TestUpstreamDownAtStart", "e2e TestOutage"}},
	{15, "an unknown tag is what the upstream says, and trouble is never 404", []string{"proxy TestTrouble", "proxy TestAbsent", "proxy TestNobodyIsToldOfWhatTheyMayNotSee", "e2e TestUpstreamDownAtStart"}},
	{16, "a 429 is answered from memory", []string{"proxy TestRateLimitWait", "proxy/upstream TestPullLimit", "proxy/upstream TestAbuseLimit", "e2e TestOutage"}},
	{17, "blobs have their length, digest and Accept-Ranges, on HEAD too", []string{"proxy TestStatements/statement 17", "proxy TestRange"}},
	{18, "Range is exact on held and on running downloads; an end past the last byte is clamped", []string{"proxy TestRange", "e2e TestEveryClient"}},
	{19, "several ranges of one cold blob are one transfer, and clients that leave end nothing", []string{"proxy TestStatements/statement 19", "proxy TestRandomReadersOfOneBlob", "e2e TestEveryClient"}},
	{20, "many clients are one GET a blob", []string{"proxy TestManyClientsOneTransfer", "proxy TestManyClientsOneColdTag", "e2e TestPullDebianAllAtOnce"}},
	{21, "bytes flow as they arrive, and a hanging upstream is given up", []string{"proxy TestStatements/statement 21", "proxy TestStallIsResumed", "proxy/upstream TestHeaderTimeout", "proxy/upstream TestStall"}},
	{22, "an upstream that breaks off is resumed behind the client; where it cannot be, the answer is cut", []string{"proxy TestManyClientsOneTransfer", "proxy TestUpstreamCutsForGoodEndsTheAnswerShort", "e2e TestEveryClient"}},
	{23, "no wrong bytes complete", []string{"proxy TestWrongBlobsNeverComplete", "proxy TestWrongManifestsAreRefused", "cache TestDamagedFileIsReplacedWithinTheAnswer"}},
	{24, "the blobs of a manifest that was served are served: what is lost is fetched", []string{"proxy TestStatements/statement 24", "proxy TestNotAllHeld"}},
	{25, "blobs are streamed, never redirected", []string{"proxy TestStatements/statement 25"}},
	{26, "one address may have 32 answers at once, each on a connection of its own", []string{"proxy TestStatements/statement 26"}},
	{27, "a mirror port never answers 401", []string{"proxy TestNobodyIsToldOfWhatTheyMayNotSee", "proxy TestBadInputIsRefusedBlind", "proxy TestPassthrough"}},
	{28, "Authorization is ignored, not logged, not passed on", []string{"proxy TestStatements/statement 28", "e2e TestCanary"}},
	{29, "what needs credentials is shown by the rules of its visibility only", []string{"proxy TestSharedContentStaysInItsRepository", "proxy TestCredentialsServePublicContentOnly", "e2e TestClientsLogIn"}},
	{30, "HTTP/1.1 with and without keep-alive, on TLS too; h2 is not offered, since it halves what a client gets", []string{"proxy TestStatements/statement 30", "proxy/port TestCertificateIsRotated"}},
	{31, "lists and referrers pass; other methods are 405", []string{"proxy TestStatements/statement 31", "proxy TestPagesOfTags", "proxy TestReferrers", "proxy TestConformance", "proxy TestBadInputIsRefusedBlind"}},
	{32, "Docker-Distribution-Api-Version is on every answer", []string{"proxy TestStatements/statement 32"}},
	{33, "errors are OCI's, in words of our own, and counted", []string{"proxy TestStatements/statement 33", "proxy TestBadInputIsRefusedBlind"}},
	{34, "no media type is held back", []string{"proxy TestBytesAndTypesPassUnchanged", "e2e TestEveryClient"}},
	{35, "a token is asked for once a repository, until it ends", []string{"proxy/upstream TestTokenIsShared", "proxy/upstream TestTokenForEachRepository", "proxy TestPullColdThenWarm"}},
	{36, "library/ is added where a client has not", []string{"proxy TestNamesOfRegistries", "proxy TestTagsOfALibrary"}},
	{37, "HEAD costs no pull, and what is left of the limit is exported", []string{"proxy/upstream TestPulls", "proxy/upstream TestPullLimitIsExported", "proxy TestStatements/statement 11"}},
	{38, "the pull limit and the abuse limit are told apart", []string{"proxy TestPullLimitStopsManifestsOnly", "proxy/upstream TestIsPullLimit", "proxy/upstream TestPullLimit", "proxy/upstream TestAbuseLimit"}},
	{39, "the CDN gets no Authorization, and an expired address is asked for again", []string{"proxy TestExpiredRedirectIsAskedForAgain", "proxy/upstream TestRedirects", "proxy/upstream TestExpiredBlobAddress", "e2e TestEveryClient"}},
}

// TestStatementsAreShown looks for the tests that the table names.
func TestStatementsAreShown(t *testing.T) {
	sources := map[string]string{} // by room
	for n, s := range statements {
		if s.number != n+1 || len(s.shown) == 0 {
			t.Errorf("statement %d stands at %d, and %d tests show it", s.number, n+1, len(s.shown))
		}
		for _, shown := range s.shown {
			room, name, _ := strings.Cut(shown, " ")
			if sources[room] == "" {
				sources[room] = testsOf(t, room)
			}
			name, part, _ := strings.Cut(name, "/")
			found := strings.Contains(sources[room], "\nfunc "+name+"(")
			if number, ok := strings.CutPrefix(part, "statement "); ok {
				found = found && regexp.MustCompile(`\s`+number+`: [a-z]\w+,`).MatchString(sources[room])
			}
			if !found {
				t.Errorf("statement %d: there is no %s", s.number, shown)
			}
		}
	}
	if len(statements) != 39 {
		t.Errorf("%d statements, want 39", len(statements))
	}
}

// testsOf are the tests of a room, as they are written.
func testsOf(t *testing.T, room string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", room, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}

// TestDockerdKnowsOneRegistry shows what has to be said to users of dockerd: a mirror has no path, and is asked for Docker Hub only.
func TestDockerdKnowsOneRegistry(t *testing.T) {
	need(t)
	c := clientNamed(t, "dockerd")
	app := multiArchOf("quay.io/some/app")
	s := newSiteWith(t, []string{"quay.io"})
	elsewhere := *app
	elsewhere.repository = "some/app"
	s.publish(&elsewhere)
	s.startHubcap(t, scratch(t), longTTL)

	t.Run("statement 5", func(t *testing.T) {
		d := newTool(t, s, mirror+"/docker.io")
		config := d.write(t, "daemon.json", fmt.Sprintf(`{"registry-mirrors": ["http://%s"]}`, d.mirror))
		if out, err := run(s.ns, d.command("dockerd", "--config-file", config, "--data-root", d.path("data"), "--exec-root", d.path("exec"),
			"--host", "unix://"+d.path("docker.sock"), "--pidfile", d.path("pid"), "--iptables=false", "--bridge=none")); err == nil || !strings.Contains(err.Error(), "mirror") {
			t.Errorf("a mirror with a path: %v, %s", err, out)
		}
	})
	t.Run("statement 6", func(t *testing.T) {
		d := c.start(t, s, mirror).(dockerd)
		mustRun(t, s.ns, d.docker("pull", "--quiet", app.name()))
		if seen := agents(s.hub.Log()); !slices.Equal(seen, []string{"docker"}) {
			t.Errorf("quay.io saw %v, want dockerd itself", seen)
		}
		clients, err := os.ReadFile("../deploy/docs/clients.md")
		if err != nil || !strings.Contains(string(clients), "Docker Hub only: dockerd never asks a mirror for other registries") {
			t.Errorf("clients.md does not say so: %v", err)
		}
	})
}
