package upstream

// Preset is a public registry that is known without configuration.
type Preset struct {
	Host       string
	URL        string   // when it is not https://Host
	TokenHosts []string // besides the registry's own host
}

// Presets are the well-known public registries, each with the token hosts
// that its challenges name.
//
// lscr.io is a name before other registries, which redirects to ghcr.io and
// wants ghcr.io's tokens there; a redirect is followed without a token, so
// ghcr.io is asked itself. nvcr.io names authn.nvidia.com to those whose
// token has expired, where an anonymous client gets none that works; so only
// its own host is on the list, and an expired token is replaced from there.
func Presets() []Preset {
	return []Preset{
		{Host: DockerHub, URL: "https://registry-1.docker.io", TokenHosts: []string{"auth.docker.io"}},
		{Host: "ghcr.io"},
		{Host: "lscr.io", URL: "https://ghcr.io"},
		{Host: "quay.io"},
		{Host: "registry.k8s.io"},
		{Host: "mcr.microsoft.com"},
		{Host: "gcr.io"},
		{Host: "*.gcr.io"},
		{Host: "*.pkg.dev"},
		{Host: "public.ecr.aws"},
		{Host: "registry.gitlab.com", TokenHosts: []string{"gitlab.com"}},
		{Host: "docker.elastic.co", TokenHosts: []string{"docker-auth.elastic.co"}},
		{Host: "nvcr.io"},
	}
}
