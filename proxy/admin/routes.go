package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"hubcap/proxy/admin/api"
)

// root is where the API is.
const root = "/api/v1/"

// answers is the body of an answer, as huma has it.
type answers[O any] struct{ Body *O }

// newAPI returns the handler of the API. link makes a login link.
func newAPI(b *Box, link func(context.Context, *api.LoginRequest) (*api.Login, error)) http.Handler {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("hubcap", b.Version)
	config.CreateHooks = nil // they add links to schemas
	config.DocsPath, config.SchemasPath = "", ""
	config.OpenAPIPath = root + "openapi"
	config.RejectUnknownQueryParameters = true
	a := humago.New(mux, config)

	get(a, "status", "How the box is, at one look", b.GetStatus)
	get(a, "problems", "What is wrong now", b.GetProblems)
	get(a, "fills", "The downloads that run now", b.GetFills)
	get(a, "upstreams", "The registries that are asked: limits, circuits, credentials", b.GetUpstreams)
	get(a, "clients", "Who has asked for content", b.GetClients)
	get(a, "requests", "The last requests of clients", b.GetRequests)
	get(a, "bypasses", "Who has gone around the box, as far as it can be told", b.GetBypasses)
	get(a, "capacity", "What a cache of another size would answer", b.GetCapacity)
	get(a, "history", "The box's own series", b.GetHistory)
	streamEvents(a, b.Events)
	post(a, "login", "Make a link by which a browser logs in, once", link)

	mux.HandleFunc(root, func(w http.ResponseWriter, r *http.Request) { noRoute(mux, w, r) })
	return mux
}

// get registers a route that changes nothing.
func get[I, O any](a huma.API, path, summary string, answer func(context.Context, *I) (*O, error)) {
	huma.Register(a, operation(http.MethodGet, path, summary), func(ctx context.Context, in *I) (*answers[O], error) {
		out, err := answer(ctx, in)
		if err != nil {
			return nil, asError(err)
		}
		return &answers[O]{out}, nil
	})
}

// asked is the body of a request, as huma has it.
type asked[I any] struct{ Body I }

// post registers a route that takes a body.
func post[I, O any](a huma.API, path, summary string, answer func(context.Context, *I) (*O, error)) {
	huma.Register(a, operation(http.MethodPost, path, summary), func(ctx context.Context, in *asked[I]) (*answers[O], error) {
		out, err := answer(ctx, &in.Body)
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
