package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"hubcap/proxy/admin/api"
)

// root is where the API is.
const root = "/api/v1/"

// answers is the body of an answer, as huma has it.
type answers[O any] struct{ Body O }

// newAPI returns the handler of the API. link makes a login link.
func newAPI(b *Box, link answerer[api.LoginRequest, api.Login]) http.Handler {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("hubcap", b.Version)
	config.CreateHooks = nil // they add links to schemas
	config.DocsPath, config.SchemasPath = "", ""
	config.OpenAPIPath = root + "openapi"
	config.RejectUnknownQueryParameters = true
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	a := humago.New(mux, config)

	show(a, "status", "How the box is, at one look", b.status)
	show(a, "problems", "What is wrong now", func() api.Problems { return api.Problems{Problems: b.Problems.All()} })
	show(a, "fills", "The downloads that run now", func() api.Fills { return api.Fills{Fills: b.Cache.Fills()} })
	show(a, "upstreams", "The registries that are asked: limits, circuits, credentials", b.upstreams)
	register(a, "GET", "clients", "Who has asked for content", b.clients)
	register(a, "GET", "requests", "The last requests of clients", b.lastRequests)
	show(a, "bypasses", "Who has gone around the box, as far as it can be told", b.bypasses)
	show(a, "capacity", "What a cache of another size would answer", b.capacity)
	register(a, "GET", "history", "The box's own series", b.series)
	streamEvents(a, b.Events)

	register(a, "GET", "images", "The images that clients have pulled: a row a tag", b.list)
	register(a, "GET", "image", "An image: its platforms, what is held and what is missing", imageBy(b, b.Images.Image))
	register(a, "GET", "image/tree", "What an image consists of", imageBy(b, b.Images.Tree))
	show(a, "tags", "The tags that do not follow their registry: frozen or cooling", func() api.KeptTags { return api.KeptTags{Tags: b.Tags.Kept()} })
	register(a, "GET", "image/history", "What a tag has named, and what it means now", b.tagHistory)
	take(a, "POST", "image/freeze", "Answer a tag with one digest until it is thawed", b.freeze)
	take(a, "POST", "image/rollback", "Freeze a tag to a digest that it named before", b.rollback)
	take(a, "POST", "image/thaw", "End a freeze: the tag follows its registry again", b.thaw)
	take(a, "POST", "image/adopt", "End a cool-down: the tag moves now", b.adopt)
	show(a, "pins", "What is never evicted to make room", b.pins)
	take(a, "PUT", "pins", "Pin an image, or replace its pin", b.pin)
	register(a, "DELETE", "pins", "Remove a pin", b.unpin)
	take(a, "POST", "warm", "Fetch images, once or again and again", b.warm)
	take(a, "POST", "purge", "Remove images, and what nothing else needs then", b.purge)
	take(a, "POST", "verify", "Have files hashed by a job", b.verify)
	take(a, "POST", "evict", "Evict to make room, in the order in which that happens by itself", b.evict)
	register(a, "GET", "eviction", "What would be evicted to make room, in that order", b.wouldEvict)
	register(a, "GET", "outage", "Which images could be pulled if all registries failed", b.outage)
	take(a, "POST", "outage/repair", "Fetch what images lack, by a job", b.repair)
	show(a, "offline", "Whether the box asks registries", b.Switch.Status)
	take(a, "PUT", "offline", "Ask no registry for a time, or end that", b.setOffline)
	show(a, "schedules", "What is fetched again and again", b.schedules)
	register(a, "DELETE", "schedules/{id}", "End a schedule", b.endSchedule)
	show(a, "jobs", "The long work of the box", func() api.Jobs { return api.Jobs{Jobs: b.Jobs.All()} })
	register(a, "GET", "jobs/{id}", "A job", b.job)
	register(a, "DELETE", "jobs/{id}", "End a job; what it has done stays", b.cancelJob)

	show(a, "holdings", "The digests of all that is stored", func() api.Holdings { return api.Holdings{Digests: b.Bundle.Holdings()} })
	streamExport(a, b)
	streamImport(a, b)

	take(a, "POST", "login", "Make a link by which a browser logs in, once", link)

	mux.HandleFunc(root, func(w http.ResponseWriter, r *http.Request) { noRoute(mux, w, r) })
	return wellFormed(mux)
}

// wellFormed refuses malformed queries, which huma takes for empty ones.
func wellFormed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			refuse(w, api.Error{Status: http.StatusBadRequest, Detail: "the query is malformed"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// answerer answers the requests of a route, whose path, query or body is an I.
type answerer[I, O any] func(context.Context, *I) (O, error)

// show registers a route that is asked for nothing in particular, and never fails.
func show[O any](a huma.API, path, summary string, answer func() O) {
	register(a, "GET", path, summary, func(context.Context, *struct{}) (O, error) { return answer(), nil })
}

// asked is the body of a request, as huma has it.
type asked[I any] struct{ Body I }

// take registers a route whose requests have a body.
func take[I, O any](a huma.API, method, path, summary string, answer answerer[I, O]) {
	register(a, method, path, summary, func(ctx context.Context, in *asked[I]) (O, error) { return answer(ctx, &in.Body) })
}

// register registers a route.
func register[I, O any](a huma.API, method, path, summary string, answer answerer[I, O]) {
	huma.Register(a, operation(method, path, summary), func(ctx context.Context, in *I) (*answers[O], error) {
		out, err := answer(ctx, in)
		if err != nil {
			return nil, asError(err)
		}
		return &answers[O]{out}, nil
	})
}

func operation(method, path, summary string) huma.Operation {
	name := strings.NewReplacer("/", "-", "{", "", "}", "").Replace(path)
	return huma.Operation{OperationID: strings.ToLower(method) + "-" + name, Method: method, Path: root + path, Summary: summary}
}

// noRoute answers what no route is for.
func noRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != root {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		refuse(w, api.Error{Status: http.StatusNotFound, Detail: "there is no such route; " + root + "openapi.json has all"})
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	refuse(w, api.Error{Status: http.StatusMethodNotAllowed, Detail: "this route takes " + strings.Join(allowed, ", ")})
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, e api.Error) {
	w.Header().Set("Content-Type", e.ContentType(""))
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(filled(e)) // the client has left
}

// schemaName names a type of a room after both: several rooms have a Status.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := huma.DefaultSchemaNamer(t, hint)
	if room := path.Base(t.PkgPath()); t.Name() != "" && room != "api" && !strings.EqualFold(room, name) {
		return strings.ToUpper(room[:1]) + room[1:] + name
	}
	return name
}
