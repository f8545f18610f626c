"""Java and Kotlin, built by Maven or Gradle into one jar."""

from __future__ import annotations

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import FITS, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import (
    Default,
    Service,
    check,
    env,
    mongodb,
    mysql,
    postgres,
    redis,
    settings,
    stops_with,
    web,
)
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file, of_tools

_PORT = 8080
_DEFAULT = "21"
_GRADLE = ("build.gradle", "build.gradle.kts")
_KNOWN = ("8", "11", "17", "21", "25")
_SERVICES = (
    (r"org\.postgresql|quarkus-jdbc-postgresql", postgres),
    (r"com\.mysql|mysql-connector|mariadb-java-client", mysql),
    (r"spring-boot-starter-data-redis|jedis|lettuce", redis),
    (r"spring-boot-starter-data-mongodb|mongodb-driver", mongodb),
)


def _look(folder: Folder) -> tuple[Evidence, ...]:
    maven = folder.first("pom.xml", "mvnw")
    gradle = folder.first(*_GRADLE, "gradlew")
    if not (maven or gradle):
        return ()
    file = folder.first("pom.xml", *_GRADLE)
    spring = bool(file) and folder.says(file, r"org\.springframework\.boot")
    quarkus = bool(file) and folder.says(file, r"io\.quarkus")
    return evidence(
        (maven or gradle, maven or gradle, MANIFEST),
        (spring, f"Spring Boot in {file}", NAMED),
        (quarkus, f"Quarkus in {file}", NAMED),
        (folder.has_directory("src/main/java") or folder.has_directory("src/main/kotlin"), "src/main", FITS),
    )


def _version(folder: Folder) -> Version:
    """The JDK. A version without an image is given the next one that has."""
    found = chosen(
        in_file(folder, "pom.xml", r"<maven\.compiler\.release>\s*(\d+)"),
        in_file(folder, "pom.xml", r"<java\.version>\s*(?:1\.)?(\d+)"),
        in_file(folder, "pom.xml", r"<(?:release|maven\.compiler\.(?:source|target))>\s*(?:1\.)?(\d+)"),
        *(in_file(folder, name, r"JavaLanguageVersion\.of\(\s*(\d+)") for name in _GRADLE),
        *(in_file(folder, name, r"jvmToolchain\(\s*(\d+)") for name in _GRADLE),
        *(in_file(folder, name, r"(?:source|target)Compatibility\s*=\s*\D*(?:1[._])?(\d+)") for name in _GRADLE),
        in_file(folder, "system.properties", r"^java\.runtime\.version\s*=\s*(\d+)"),
        in_file(folder, ".java-version", r"^[ \t]*(?:\w+-)?(\d+)"),
        in_file(folder, ".sdkmanrc", r"^java\s*=\s*(\d+)"),
        of_tools(folder, "java"),
        default=_DEFAULT,
    )
    number = int(found.value.split(".")[0])
    image = next((known for known in _KNOWN if int(known) >= number), _KNOWN[-1])
    return Version(image, found.origin)


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = _version(folder)
    maven = folder.has("pom.xml", "mvnw") or not folder.has(*_GRADLE, "gradlew")
    file = folder.first("pom.xml") if maven else folder.first(*_GRADLE)
    quarkus = bool(file) and folder.says(file, r"io\.quarkus")
    boot = bool(file) and folder.says(file, r"org\.springframework\.boot")
    start = ("java", "-jar", "quarkus-run.jar" if quarkus else "app.jar")
    text = script.text(
        f"ARG JAVA_VERSION={version.value}",
        *(_maven(folder, version, quarkus=quarkus) if maven else _gradle(folder, version, quarkus=quarkus)),
        "",
        "FROM eclipse-temurin:${JAVA_VERSION}-jre",
        "RUN useradd --system --create-home --shell /usr/sbin/nologin app",
        "WORKDIR /app",
        "COPY --from=build /out ./",
        'ENV JAVA_TOOL_OPTIONS="-XX:MaxRAMPercentage=75"',
        "",
        "USER app",
        f"EXPOSE {_PORT}",
        script.cmd(start),
    )
    parts: list[Default | Service] = [
        *web(_PORT, "what most servers in Java listen on"),
        env("JAVA_TOOL_OPTIONS", "-XX:MaxRAMPercentage=75", "the JVM takes a quarter of the memory unless told"),
        stops_with("SIGTERM", "the signal on which the JVM runs its shutdown hooks"),
    ]
    review, notes = [], []
    if boot and folder.says(file, "actuator"):
        parts.append(check("/actuator/health", "Spring Boot's actuator answers there"))
    elif boot:
        notes.append("with spring-boot-starter-actuator there would be a health check at /actuator/health")
    if not (boot or quarkus) and not folder.says(file, r"(?i)mainClass|Main-Class|shadow|assembly-plugin|shade-plugin"):
        review.append(f"nothing in {file or 'the build file'} names a main class: a jar without one cannot be started")
    parts += [make(f"its driver in {file}") for expression, make in _SERVICES if file and folder.says(file, expression)]
    return Recipe(
        runtime="Java",
        version=version,
        start=start,
        settings=settings(parts),
        files=(File("Dockerfile", text),),
        ignored=("**/target", "**/build", "**/.gradle", "**/*.class", "**/*.iml"),
        review=tuple(review),
        notes=tuple(notes),
    )


def _maven(folder: Folder, version: Version, *, quarkus: bool) -> list[str | None]:
    wrapper = folder.has("mvnw") and folder.has_directory(".mvn")
    mvn = "./mvnw" if wrapper else "mvn"
    single = folder.has("pom.xml") and not folder.says("pom.xml", r"<modules>")
    image = "eclipse-temurin:${JAVA_VERSION}-jdk" if wrapper else "maven:3.9-eclipse-temurin-${JAVA_VERSION}"
    return [
        f"FROM {image} AS build",
        "WORKDIR /src",
        "COPY mvnw ./" if wrapper else None,
        "COPY .mvn ./.mvn" if wrapper else None,
        "RUN chmod +x mvnw" if wrapper else None,
        "# What it needs, before the source: a changed line downloads nothing." if single else None,
        "COPY pom.xml ./" if single else None,
        f"RUN {mvn} --batch-mode dependency:go-offline" if single else None,
        "COPY . .",
        "RUN chmod +x mvnw" if wrapper else None,
        f"RUN {mvn} --batch-mode package -DskipTests",
        _quarkus("target") if quarkus else _jar("target"),
    ]


def _gradle(folder: Folder, version: Version, *, quarkus: bool) -> list[str | None]:
    wrapper = folder.has("gradlew") and folder.has_directory("gradle/wrapper")
    gradle = "./gradlew" if wrapper else "gradle"
    files = [
        name for name in (*_GRADLE, "settings.gradle", "settings.gradle.kts", "gradle.properties") if folder.has(name)
    ]
    boot = any(folder.says(name, r"org\.springframework\.boot") for name in _GRADLE)
    shadow = any(folder.says(name, r"com\.(gradleup|github\.johnrengelman)\.shadow") for name in _GRADLE)
    task = "build -x test" if quarkus else "bootJar" if boot else "shadowJar" if shadow else "assemble"
    return [
        f"FROM {'eclipse-temurin:${JAVA_VERSION}-jdk' if wrapper else 'gradle:8-jdk${JAVA_VERSION}'} AS build",
        "WORKDIR /src",
        "COPY gradlew ./" if wrapper else None,
        "COPY gradle ./gradle" if folder.has_directory("gradle") else None,
        "RUN chmod +x gradlew" if wrapper else None,
        "# What it needs, before the source: a changed line downloads nothing.",
        script.copy(files),
        f"RUN {gradle} --no-daemon dependencies",
        "COPY . .",
        "RUN chmod +x gradlew" if wrapper else None,
        f"RUN {gradle} --no-daemon {task}",
        _quarkus("build") if quarkus else _jar("build/libs"),
    ]


def _jar(directory: str) -> str:
    """The one to start, among those with sources, with documentation, and as they were before they were repackaged."""
    others = " ".join(
        f"! -name '{name}'" for name in ("*-sources.jar", "*-javadoc.jar", "*-plain.jar", "original-*.jar")
    )
    return script.run(
        "mkdir /out",
        f"cp \"$(find {directory} -maxdepth 1 -name '*.jar' {others} -printf '%s %p\\n'"
        " | sort -rn | head -1 | cut -d' ' -f2-)\" /out/app.jar",
    )


def _quarkus(directory: str) -> str:
    return f"RUN cp -r {directory}/quarkus-app /out"


FRAMEWORK = Framework("java", "Java", _look, _cook)
